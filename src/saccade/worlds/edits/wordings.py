"""Wordings of instructions, six for every kind of edit, of which the last two are held out; wordings of questions.

Slots: ``thing`` a coloured shape without article, ``a_thing`` with its article, ``a_new`` the thing that replaces it,
``color`` the new colour, ``cell`` a place of the 3 x 3 grid, ``kind`` things in the plural, ``number`` the new number
of things, ``word`` the new word and ``old`` the old one.
"""

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "recolor": (
        "Make the {thing} {color}.",
        "Paint the {thing} {color}.",
        "Turn the {thing} {color}.",
        "The {thing} is to be {color}.",
        "Color the {thing} in {color}.",
        "Give the {thing} the color {color}.",
    ),
    "move": (
        "Move the {thing} to the {cell}.",
        "Put the {thing} at the {cell}.",
        "The {thing} is to be at the {cell}.",
        "Shift the {thing} to the {cell}.",
        "Bring the {thing} to the {cell}.",
        "Place the {thing} at the {cell}.",
    ),
    "add": (
        "Add {a_thing} at the {cell}.",
        "Draw {a_thing} at the {cell}.",
        "Put {a_thing} at the {cell}.",
        "At the {cell} add {a_thing}.",
        "Insert {a_thing} at the {cell}.",
        "Let there be {a_thing} at the {cell}.",
    ),
    "remove": (
        "Remove the {thing}.",
        "Delete the {thing}.",
        "Take the {thing} out.",
        "Erase the {thing}.",
        "Get rid of the {thing}.",
        "Leave out the {thing}.",
    ),
    "replace": (
        "Replace the {thing} with {a_new}.",
        "Put {a_new} in place of the {thing}.",
        "Turn the {thing} into {a_new}.",
        "Make the {thing} {a_new}.",
        "Change the {thing} to {a_new}.",
        "Draw {a_new} instead of the {thing}.",
    ),
    "count": (
        "Make it {number} {kind}.",
        "Add one more {thing}.",
        "Show {number} {kind}.",
        "There are to be {number} {kind}.",
        "Draw another {thing}.",
        "Change the number of {kind} to {number}.",
    ),
    "text": (
        'Change the word to "{word}".',
        'Write "{word}" now.',
        'Make the sign say "{word}".',
        'The word is to be "{word}".',
        'Replace "{old}" with "{word}".',
        'Let the text be "{word}".',
    ),
}

PHOTOGRAPH_INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "brightness": (
        "Make the photo {percent} percent {lighter}.",
        "Turn the brightness {up} by {percent} percent.",
        "The photo is to be {percent} percent {lighter}.",
        "Brightness {up}, {percent} percent.",
        "Take the brightness {up} {percent} percent.",
        "{percent} percent {lighter}, please.",
    ),
    "contrast": (
        "Give the photo {percent} percent {more} contrast.",
        "Turn the contrast {up} by {percent} percent.",
        "The photo is to have {percent} percent {more} contrast.",
        "Contrast {up}, {percent} percent.",
        "Take the contrast {up} {percent} percent.",
        "{percent} percent {more} contrast, please.",
    ),
    "crop": (
        "Crop the photo to its {quarter} quarter.",
        "Zoom in on the {quarter} quarter.",
        "Show only the {quarter} quarter.",
        "Cut out the {quarter} quarter and enlarge it.",
        "Enlarge the {quarter} quarter to fill the photo.",
        "Keep nothing but the {quarter} quarter.",
    ),
    "blur": (
        "Blur the photo {much}.",
        "Make the photo {much} blurred.",
        "Soften the photo {much}.",
        "Put the photo {much} out of focus.",
        "The photo is to be blurred {much}.",
        "Take the sharpness away {much}.",
    ),
    "greyscale": (
        "Make the photo black and white.",
        "Turn the photo to greyscale.",
        "Take all color out of the photo.",
        "Show the photo in shades of grey.",
        "Convert it to black and white.",
        "Remove the colors.",
    ),
}

QUESTIONS = {
    "count": "Are there {number} {kind}?",
    "text": 'Does the sign say "{word}"?',
    "brightness": "Is the second picture {lighter} than the first?",
    "contrast": "Does the second picture have {more} contrast than the first?",
    "crop": "Does the second picture show a part of the first?",
    "blur": "Is the second picture less sharp than the first?",
    "greyscale": "Is the second picture black and white?",
    "same": "Apart from that, do both pictures show the same?",
}
"""Yes-or-no questions that the world of questions has no wording for."""
