"""The terminal's view of a validation: a line of progress, the table of rows, the line of totals."""
import os
import shutil
import sys
import time

from refnode.evidence.row import GROUPS, VERDICTS

COLOURS = {"PASS": "32", "FAIL": "31;1", "ERROR": "35;1", "INCONCLUSIVE": "33"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
EVERY = 5.0                  # seconds between lines of progress that cannot be overwritten


class Progress:
    """One line that is overwritten on a terminal; elsewhere a line every few seconds."""

    def __init__(self, stream=None, quiet=False):
        self.stream, self.quiet = stream or sys.stderr, quiet
        self.overwrites = self.stream.isatty()
        self.started, self.last = time.perf_counter(), -EVERY

    def __call__(self, done, total, what, rows):
        self.say(f"[{done:3d}/{total}] {len(rows):4d} rows {_faults(rows)}  {what}", last=done == total)

    def say(self, text, last=False):
        """Show a line of progress; the last one is wiped from a terminal, and never held back elsewhere."""
        now = time.perf_counter() - self.started
        if self.quiet:
            return
        if self.overwrites:
            self.wipe("" if last else f"{now:5.1f} s {text}"[:terminal_width() - 1])
        elif last or now - self.last >= EVERY:
            self.last = now
            print(f"{now:5.1f} s {text}", file=self.stream, flush=True)

    def wipe(self, text=""):
        """Put ``text`` in place of the line on a terminal."""
        if self.overwrites and not self.quiet:
            self.stream.write("\r\x1b[K" + text)
            self.stream.flush()


def _faults(rows):
    count = sum(row.verdict in ("FAIL", "ERROR") for row in rows)
    return f"({count} failed)" if count else "(all right)"


def terminal_width():
    return shutil.get_terminal_size((120, 24)).columns


def wants_colour(stream):
    """Colour on a terminal only, and never against NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table_lines(outcome, width=None, colour=False, quiet=False):
    """The rows by group, those that did not pass explained; ``quiet`` leaves the passed ones out."""
    width = max(72, min(width or terminal_width(), 120))
    for group, title in GROUPS.items():
        rows = [row for row in outcome.rows if row.group == group]
        shown = [row for row in rows if row.verdict != "PASS"] if quiet else rows
        if shown:
            yield ""
            yield f"{title}"
            yield from _group_lines(shown, width, colour)


def _group_lines(rows, width, colour):
    reasons = list(dict.fromkeys(row.reason for row in rows if row.reason))
    wide = [min(max(least, *(len(getattr(row, name)) for row in rows)), most)
            for name, least, most in (("subject", 0, 32), ("evidence", 0, 57), ("worst", 15, 21))]
    fixed = 8 + 9 + 2 + 13
    wide[1] = min(wide[1], width - fixed - wide[0] - 4 - (wide[2] + 2 if width >= 100 else 0))
    if width < 100:
        wide[2] = 0
    yield _line(("", "", "worst component"), wide, "error", "bound", " ", "verdict")
    before = None
    for row in rows:
        subject, before = "" if row.subject == before else row.subject, row.subject
        letter = LETTERS[reasons.index(row.reason)] if row.reason else " "
        yield _line((subject, row.evidence, row.worst), wide, f"{row.error:.1e}", f"{row.bound:.1e}", letter,
                    _coloured(row.verdict, colour))
        if row.verdict != "PASS" and row.note:
            yield "    " + _cut(row.note, width - 4)
    for letter, reason in zip(LETTERS, reasons):
        yield _cut(f"  {letter}  {reason}", width)


def _line(names, wide, error, bound, letter, verdict):
    cells = [_cut(name, size).ljust(size) for name, size in zip(names, wide) if size]
    return "  ".join(cells) + f" {error:>8} {bound:>8} {letter} {verdict}"


def _cut(text, size):
    return text if len(text) <= size else text[:max(size - 1, 0)] + "…"


def _coloured(verdict, colour):
    return f"\x1b[{COLOURS[verdict]}m{verdict}\x1b[0m" if colour else verdict


def totals_line(outcome, colour, where="", seconds=None):
    """The last line: counts, time, and where the report is."""
    text = outcome.totals(seconds)
    if colour:
        gravest = next((v for v in VERDICTS if outcome.count(v)), "PASS")
        text = f"\x1b[{COLOURS[gravest]}m{text}\x1b[0m"
    return text + (f"   {where}" if where else "")
