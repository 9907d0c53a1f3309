"""Figures and times as the pages write them."""

from datetime import UTC, datetime


def figure(value: float | None, digits: int = 3) -> str:
    """0.812, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def change(value: float) -> str:
    """+0.012, with a true minus sign."""
    return f"{value:+.3f}".replace("-", "−")


def percent(part: int, whole: int) -> str:
    """41 %, or a dash where there is nothing to take a part of."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def duration(seconds: float) -> str:
    """45 s, 3 min or 2 h 05 min."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def time_left(seconds: float) -> str:
    """An estimate, which is no truer than to the minute: less than a minute left, about 3 min left."""
    return "less than a minute left" if seconds < 60 else f"about {duration(seconds)} left"


def moment(iso: str) -> str:
    """23 Nov 2026, 08:25, in UTC; what is no time is left as it is."""
    try:
        time = datetime.fromisoformat(iso)
        time = time.astimezone(UTC) if time.tzinfo else time
    except (ValueError, OverflowError):  # the latter at either end of the calendar
        return iso
    return f"{time.day} {time:%b %Y, %H:%M}"


def age(iso: str) -> float:
    """Seconds that have passed since then."""
    return (datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds()


def seconds_between(begin: str, end: str) -> float:
    """Seconds from one ISO time to another."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
