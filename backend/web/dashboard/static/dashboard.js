// Renews what changes by itself: every element marked data-live is taken from the same page again.
// Without scripts the page reloads itself while a job is active, and every button works.
"use strict";

const ids = (page) => [...page.querySelectorAll("[data-live]")].map((part) => part.id).join();

async function renew() {
  const answer = await fetch(location.href, { credentials: "same-origin" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (ids(page) !== ids(document)) {
    // A job has begun or ended, which changes more than numbers. But not while somebody is about to press a button.
    if (!document.querySelector(":popover-open")) location.reload();
    return;
  }
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const shown = document.getElementById(fresh.id);
    if (shown.innerHTML !== fresh.innerHTML) shown.replaceChildren(...fresh.childNodes);
  }
}

async function keepRenewing() {
  const busy = document.querySelector("progress") !== null;
  await new Promise((resolve) => setTimeout(resolve, busy ? 2000 : 10000));
  try {
    if (!document.hidden) await renew();
  } catch {
    // The server is restarting, say; the next try comes by itself.
  }
  keepRenewing();
}

keepRenewing();
