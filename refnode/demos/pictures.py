"""How the pictures of the demonstrations look, and how they are written: the same numbers give the same bytes."""
import contextlib

# Colours that the colour-blind can tell apart. Okabe & Ito, Color Universal Design, 2008.
INK, GREY, STREAM, DATA, FIT = "#222222", "#666666", "#bcc6d0", "#e69f00", "#0072b2"
COLOURS = (FIT, DATA, "#009e73", "#cc79a7", "#d55e00", "#56b4e9")

STYLE = {
    "font.family": "sans-serif", "font.size": 11, "axes.titlesize": 13, "axes.titlelocation": "left",
    "axes.titlepad": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": GREY, "ytick.color": GREY,
    "legend.frameon": False, "savefig.dpi": 150, "svg.hashsalt": "refnode"}


@contextlib.contextmanager
def picture(size, files):
    """An empty figure of ``size`` (width, height), [inches], to draw on; then it is written into each of the files."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}):
        figure = Figure(figsize=size)
        yield figure
        for file in files:
            figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def animation(size, file, draw, count, per_second=10, hold=10):
    """A GIF of ``size`` (width, height), [inches]: ``draw(figure, number)`` draws on an empty figure, frame after frame.

    The last frame stays for as long as ``hold`` frames.
    """
    import matplotlib
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": matplotlib.cycler(color=COLOURS), "savefig.dpi": 80}):
        figure, writer = Figure(figsize=size, dpi=80), PillowWriter(fps=per_second)
        FigureCanvasAgg(figure)
        with writer.saving(figure, str(file), 80):
            for number in range(count):
                figure.clear()
                draw(figure, number)
                for _ in range(hold if number == count - 1 else 1):
                    writer.grab_frame()
