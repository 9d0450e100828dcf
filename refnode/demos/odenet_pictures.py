"""The pictures of `refnode demo odenet`: Figure 3 of the paper for the trained ODE-Net, and the training of all twins."""
import numpy as np

from refnode.demos.pictures import COLOURS, DATA, FIT, GREY, INK, picture

GRID = {"left": 0.08, "right": 0.97, "bottom": 0.09, "top": 0.94, "wspace": 0.25, "hspace": 0.42}


def write_pictures(result, images, figure_file, training_file):
    """Both pictures, each into its file."""
    with picture((12.5, 8.6), [figure_file]) as figure:
        axes = figure.subplots(2, 2, gridspec_kw=GRID)
        row = next(row for row in result.rows if row.label == "ODE-Net")
        draw_errors(axes[0, 0], result.figure, row.recipe)
        draw_times(axes[0, 1], result.figure)
        draw_evaluations(axes[1, 0], result.figure)
        draw_epochs(axes[1, 1], row)
    with picture((12.5, 6.2), [training_file]) as figure:
        draw_digits(figure, images)
        draw_learning(figure.add_axes((0.08, 0.11, 0.40, 0.62)), result.rows)
        draw_memory(figure.add_axes((0.66, 0.11, 0.27, 0.62)), result.rows)


# --- Figure 3 ---------------------------------------------------------------------------------------

def draw_errors(axes, figure, recipe):
    """Errors of y(T) and of the gradient against the tolerance."""
    axes.loglog(figure.tolerance, figure.error, "o-", color=FIT, label="state at the end")
    axes.loglog(figure.tolerance, figure.gradient_error, "s-", color=DATA, label=f"gradient by “{recipe}”")
    axes.loglog(figure.tolerance, figure.tolerance, color=GREY, linewidth=1.0, dashes=(4, 2), label="tolerance")
    axes.invert_xaxis()
    axes.minorticks_off()
    axes.set(xlabel="tolerance of the solves", ylabel="relative error", title="a   Error against tolerance")
    axes.legend()


def draw_times(axes, figure):
    """Processor time of a forward solve against its evaluations."""
    axes.plot(figure.nfe, 1e3 * np.array(figure.seconds), "o", color=FIT)
    axes.set(xlim=(0, None), ylim=(0, None), xlabel="evaluations of f, forward", ylabel="processor time of the forward solve [ms]",
             title="b   Time against evaluations")


def draw_evaluations(axes, figure):
    """Evaluations of the reverse sweep against those of the forward solve."""
    most = 1.1 * max(figure.nfe)
    axes.plot([0, most], [0, most], color=GREY, linewidth=1.0, dashes=(4, 2))
    axes.annotate("as many backward\nas forward", (0.8 * most, 0.8 * most), (0, -14), textcoords="offset points", color=GREY,
                  ha="left", va="top", fontsize=9)
    axes.plot(figure.nfe, figure.nfe_reverse, "o-", color=FIT)
    axes.set(xlim=(0, 1.08 * most), ylim=(0, None), xlabel="evaluations, forward", ylabel="evaluations, backward",
             title="c   Backward against forward")


def draw_epochs(axes, row):
    """Mean number of evaluations of a gradient in every epoch of training."""
    epochs = np.arange(1, len(row.nfe) + 1)
    axes.plot(epochs, row.nfe, "o-", color=FIT, label="forward")
    axes.plot(epochs, row.nfe_reverse, "s-", color=DATA, label="backward")
    axes.set(**epoch_axis(len(epochs)), ylim=(0, 1.15 * max(row.nfe + row.nfe_reverse)), ylabel="evaluations a gradient",
             title="d   Evaluations against training epoch")
    axes.legend(loc="lower right")


def epoch_axis(count):
    """The axis of epochs 1 .. count: whole numbers, also where there is but one."""
    every = max(-(-count // 8), 1)
    return {"xlim": (0.5, count + 0.5), "xticks": range(every, count + 1, every), "xlabel": "epoch"}


# --- training ---------------------------------------------------------------------------------------

def draw_digits(figure, images, count=24):
    """Some of the test images in a row."""
    for i in range(min(count, len(images.test_x))):
        axes = figure.add_axes((0.08 + i * 0.85 / count, 0.83, 0.8 / count, 0.10))
        axes.imshow(images.test_x[i, :, :, 0], cmap="gray_r", vmin=0.0, vmax=1.0)
        axes.set_axis_off()
    figure.text(0.08, 0.95, f"{images.name}: images of the test set", fontsize=11)


def draw_learning(axes, rows):
    """Test error against epoch for every twin."""
    for row, colour in zip(rows, COLOURS):
        axes.plot(np.arange(1, len(row.errors) + 1), 100 * np.array(row.errors), "o-", color=colour, markersize=4, label=row.label)
    axes.set(**epoch_axis(len(rows[0].errors)), ylim=(0, None), ylabel="test error [%]", title="Test error of the twins")
    axes.legend(fontsize=9)


def draw_memory(axes, rows):
    """Bytes held for the reverse sweep of a mini-batch, by twin."""
    rows = [row for row in rows if row.bytes_held][::-1]
    colours = {row.label: FIT if row.label.startswith("ODE") else STRONG for row in rows}
    axes.barh([row.label for row in rows], [row.bytes_held / 1e6 for row in rows], color=[colours[row.label] for row in rows])
    for i, row in enumerate(rows):
        axes.text(row.bytes_held / 1e6, i, f" {row.bytes_held / 1e6:.2g} MB, {row.recipe}", va="center", color=INK, fontsize=9)
    axes.set(xlim=(0, 1.5 * max(row.bytes_held for row in rows) / 1e6), xlabel="held for the reverse sweep [MB]",
             title="Memory of the block, counted")


STRONG = COLOURS[2]
