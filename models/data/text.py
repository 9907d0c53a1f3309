"""Text files as people and spreadsheets save them."""

import codecs


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Text in UTF-8, or in UTF-16 where its byte-order mark says so, as programs on Windows save it.

    >>> decode_text("é".encode("utf-16")), decode_text("é".encode("utf-8-sig"))
    ('é', 'é')

    Raises:
        ValueError: it is in another encoding, which no file names: the letters would be guessed.
    """
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8, from byte {error.start} on; save it in UTF-8") from error
    if "\0" in text and errors == "strict":
        raise ValueError("it is no text in UTF-8, or UTF-16 without its byte-order mark; save it in UTF-8")
    return text
