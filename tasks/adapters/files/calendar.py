"""Calendar files: ICS, or CSV with `at` (ISO time, UTC unless it says otherwise) and `title`."""

import csv
from datetime import UTC, date, datetime, time
from pathlib import Path

from tasks.core.errors import InputError
from tasks.core.market.calendar import CalendarEvent


def read_calendar(path: Path) -> tuple[CalendarEvent, ...]:
    """Read the events of a file, in order; raises InputError naming the file and the entry that is wrong."""
    readers = {".ics": _from_ics, ".csv": _from_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"calendar {path}: give an .ics or a .csv file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"calendar {path}: {e}") from e
    return tuple(sorted(reader(path, text), key=lambda event: event.at))


def _from_csv(path: Path, text: str) -> list[CalendarEvent]:
    rows = csv.DictReader(text.splitlines())
    if not {"at", "title"} <= set(rows.fieldnames or ()):
        raise InputError(f"calendar {path}: needs the columns at,title")
    events = []
    for number, row in enumerate(rows, start=2):
        try:
            at = datetime.fromisoformat(row["at"].strip())
        except (ValueError, AttributeError) as e:
            raise InputError(f"calendar {path} line {number}: {row['at']!r} is not an ISO time") from e
        events.append(CalendarEvent(at=_aware(at), title=(row["title"] or "").strip()[:60]))
    return events


def _from_ics(path: Path, text: str) -> list[CalendarEvent]:
    import icalendar

    try:
        entries = icalendar.Calendar.from_ical(text).walk("VEVENT")
    except ValueError as e:
        raise InputError(f"calendar {path}: not an ICS file ({str(e)[:80]})") from e
    events = []
    for entry in entries:
        start = getattr(entry.get("DTSTART"), "dt", None)
        if start is None:
            raise InputError(f"calendar {path}: event {str(entry.get('SUMMARY'))!r} has no start")
        if not isinstance(start, datetime):
            start = datetime.combine(start if isinstance(start, date) else date.min, time(0), UTC)
        events.append(CalendarEvent(at=_aware(start), title=str(entry.get("SUMMARY", "event"))[:60]))
    return events


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
