"""Names of files that every system can hold, from names of people's choosing."""

import re
import unicodedata
from collections.abc import Iterable

MAX_BYTES = 120
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff<>:"/\\|?*]')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # device names of Windows


def file_names(names: Iterable[str]) -> list[str]:
    """A file's name without ending for each name, unlike all others also where case or Unicode's form does not count.

    >>> file_names(["a/b", "a-b", "A-B", "cap ", "", "nul"])
    ['a-b', 'a-b-2', 'A-B-3', 'cap', 'image', 'nul-']
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    found = []
    for name in names:
        safe = candidate = _safe(name)
        while (key := _key(candidate)) in taken:
            numbers[_key(safe)] = numbers.get(_key(safe), 1) + 1
            candidate = f"{safe}-{numbers[_key(safe)]}"
        taken.add(key)
        found.append(candidate)
    return found


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _safe(name: str) -> str:
    text = FORBIDDEN.sub("-", unicodedata.normalize("NFC", name))
    text = text.encode()[:MAX_BYTES].decode(errors="ignore").strip(" .\u00a0") or "image"
    return f"{text}-" if RESERVED.fullmatch(text) else text
