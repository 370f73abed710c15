"""Stop strings, found in text: a stop string need not fall on token boundaries."""


class StopText:
    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held: str = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """
        What may be shown, and whether a stop string ended it. Holds back what may become one.

        Of several stop strings the one that is complete first ends the text, however the text is cut into pieces.
        """
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, at = min(found)
            return text[:at], True
        keep = max(self._overlap(text, stop) for stop in self._stops)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
