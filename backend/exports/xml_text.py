"""Text that XML can hold, and that its readers give back as it was."""

import re

ILLEGAL = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_xml_text(text: str) -> bool:
    """Whether XML 1.0 can hold a text and give it back; a carriage return would become a line's end.

    >>> is_xml_text("naïve <&>"), is_xml_text("a\\x01"), is_xml_text("a\\rb")
    (True, False, False)
    """
    return ILLEGAL.search(text) is None
