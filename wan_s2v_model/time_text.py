"""Times in words and figures, as the log, the pictures and the command line show them. Needs neither PyTorch nor ComfyUI."""


def duration(seconds: float, decimals: int = 0) -> str:
    """A length of time, or a place in a video: minutes and seconds, with hours from one hour on: 4:05, 1:02:03, 0:59.812."""
    units = 10**decimals
    minutes, rest = divmod(round(seconds * units), 60 * units)
    hours, minutes = divmod(minutes, 60)
    width = 3 + decimals if decimals else 2
    text = f"{rest / units:0{width}.{decimals}f}"
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


def seconds_of(text: str) -> int:
    """Seconds of what `duration` wrote without decimals."""
    return sum(int(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))


def short_duration(seconds: float) -> str:
    """The same, but tenths of seconds below a minute: 4.8 s, 1:05."""
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)


def rough_duration(seconds: float) -> str:
    """About how long something will take, in the two largest units that matter: about 95 s, about 2 h 5 min."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"about {hours} h {rest} min" if hours < 48 else f"about {round(hours / 24)} days"
