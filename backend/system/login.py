"""The login that the backend asks of its callers, and that Label Studio is told."""

import base64
from dataclasses import dataclass, field

TOKEN_HEADER = "X-Premask-Token"
LEAD, VIEWER = "lead", "viewer"  # who may change things, and who may look


@dataclass(frozen=True)
class Login:
    """User and password, and a token for webhooks.

    Attributes:
        user: of HTTP Basic authentication.
        password: of HTTP Basic authentication.
        webhook_token: opens /webhook without them, as `?token=` or in the header X-Premask-Token: Label Studio's
            webhooks about annotations carry no password. None: webhooks need user and password.
        viewer_user, viewer_password: of those who may look but change nothing; None for nobody.
        role_header: by which a proxy says LEAD or VIEWER of whom it has let in; None for no proxy.
        role_proxies: addresses or networks of these proxies.
    """

    user: str
    password: str = field(repr=False)
    webhook_token: str | None = field(default=None, repr=False)
    viewer_user: str | None = None
    viewer_password: str | None = field(default=None, repr=False)
    role_header: str | None = None
    role_proxies: tuple[str, ...] = ()

    @property
    def webhook_headers(self) -> dict[str, str]:
        """The headers with which a webhook is let in."""
        if self.webhook_token is not None:
            return {TOKEN_HEADER: self.webhook_token}
        encoded = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}
