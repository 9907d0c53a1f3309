"""Text that XML can hold."""

import re

ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_xml_text(text: str) -> bool:
    """Whether XML 1.0 can hold a text.

    >>> is_xml_text("naïve <&>"), is_xml_text("a\\x01")
    (True, False)
    """
    return ILLEGAL.search(text) is None
