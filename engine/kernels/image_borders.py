"""Where pictures become lane groups of images and back: the transposes of the image kernels.

`import`: x[images, ...] of some element type -> a grid of float32, one lane an image; lanes of
images that do not exist become zero. `export`: a grid -> y[images, ...] float32.

Words: grid (x 1-5 of an export, y 6-10 of an import, see grids.py), 16 rows, 17 channels, 18
pixels, 19 the array's index in the borders table, 20-23 elements of the array from an image,
channel, row and pixel to the next, 24 first row and 25 first pixel in the array.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.borders import copy8x8
from engine.kernels.elements import load_as_float
from engine.kernels.functions import inline
from engine.kernels.grids import X, Y, channel_nbytes, row_of, word
from engine.kernels.vector import load_float, load_i64, store_float


@inline
def _pixels_of(step, borders, row, image, nbytes):
    """Address of the array's element: that image, the visit's row, channel 0, first pixel."""
    array = load_i64(borders + 8 * word(step, 19))
    row, pixel = word(step, 24) + row, word(step, 25)
    place = image * word(step, 20) + row * word(step, 22) + pixel * word(step, 23)
    return array + place * nbytes


@inline
def _take_eights(lanes, source, image_nbytes, target, pixels):
    """As many whole eights of pixels as there are, whose floats stand side by side."""
    done = 0
    while done + 8 <= pixels:
        for t in range(0, lanes, 8):
            place = source + t * image_nbytes + done * 4
            copy8x8(place, image_nbytes, target + (done * lanes + t) * 4, lanes * 4)
        done += 8
    return done


@inline
def _put_eights(lanes, source, target, image_nbytes, pixels):
    done = 0
    while done + 8 <= pixels:
        for t in range(0, lanes, 8):
            place = target + t * image_nbytes + done * 4
            copy8x8(source + (done * lanes + t) * 4, lanes * 4, place, image_nbytes)
        done += 8
    return done


def import_images(lanes, element, nbytes):
    """The kernel for one element type; `nbytes` is the size of one."""

    def kernel(step, arena, row, live, borders):
        pixels, right = word(step, 18), word(step, 23) * nbytes
        image_nbytes = word(step, 20) * nbytes
        whole = element == "float32" and live == lanes and right == 4
        for i in range(word(step, 16)):
            source = _pixels_of(step, borders, i, row, nbytes)
            target = row_of(step, Y, arena, i)
            for _ in range(word(step, 17)):
                done = _take_eights(lanes, source, image_nbytes, target, pixels) if whole else 0
                for p in range(done, pixels):
                    at, to = source + p * right, target + p * lanes * 4
                    for t in range(live):
                        store_float(to + t * 4, load_as_float(element, at + t * image_nbytes))
                    for t in range(live, lanes):
                        store_float(to + t * 4, 0)
                source += word(step, 21) * nbytes
                target += channel_nbytes(step, Y)

    return kernel


def export_images(lanes):
    """The kernel that writes float32."""

    def kernel(step, arena, row, live, borders):
        pixels, right = word(step, 18), word(step, 23) * 4
        image_nbytes = word(step, 20) * 4
        whole = live == lanes and right == 4
        for i in range(word(step, 16)):
            target = _pixels_of(step, borders, i, row, 4)
            source = row_of(step, X, arena, i)
            for _ in range(word(step, 17)):
                done = _put_eights(lanes, source, target, image_nbytes, pixels) if whole else 0
                for p in range(done, pixels):
                    to, at = target + p * right, source + p * lanes * 4
                    for t in range(live):
                        store_float(to + t * image_nbytes, load_float(at + t * 4))
                target += word(step, 21) * 4
                source += channel_nbytes(step, X)

    return kernel
