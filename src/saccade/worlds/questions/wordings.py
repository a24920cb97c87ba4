"""The wordings of questions: six for every skill, of which the last two are held out.

Held-out wordings differ in form; their words occur in training questions of other skills.

Slots: ``kind`` objects in the plural, ``thing`` one object without its article, ``a_thing`` with it, ``shape`` and
``color`` alone, ``cell`` a cell of the 3 x 3 grid, ``one`` and ``other`` two objects, ``relation`` a relation.
"""

WORDINGS: dict[str, tuple[str, ...]] = {
    "count": (
        "How many {kind} are there?",
        "Count the {kind}.",
        "What is the number of {kind}?",
        "{kind}: how many?",
        "How many {kind} can you see?",
        "Tell me how many {kind} the picture shows.",
    ),
    "color": (
        "What color is the {shape}?",
        "Which color does the {shape} have?",
        "Name the color of the {shape}.",
        "Tell me the color of the {shape}.",
        "The {shape} has which color?",
        "The {shape}: what color do you see?",
    ),
    "color_at": (
        "What color is the object at the {cell}?",
        "Which color does the object at the {cell} have?",
        "The object at the {cell} has which color?",
        "At the {cell}: what color do you see?",
        "Name the color of the object at the {cell}.",
        "Tell me the color of the object at the {cell}.",
    ),
    "shape": (
        "What shape is the {color} object?",
        "Which shape does the {color} object have?",
        "Name the shape of the {color} object.",
        "Tell me the shape of the {color} object.",
        "The {color} object has which shape?",
        "Which object do you see in {color}?",
    ),
    "shape_at": (
        "What shape is the object at the {cell}?",
        "Which shape does the object at the {cell} have?",
        "The object at the {cell} has which shape?",
        "At the {cell}: which object do you see?",
        "Name the shape at the {cell}.",
        "Tell me the shape of the object at the {cell}.",
    ),
    "relation": (
        "Where is the {one} as seen from the {other}: left, right, above or below?",
        "Is the {one} left, right, above or below the {other}?",
        "Left, right, above or below the {other}: where is the {one}?",
        "Seen from the {other}, is the {one} left, right, above or below?",
        "The {one} is where from the {other}: left, right, above or below?",
        "Tell me where the {one} is from the {other}: left, right, above or below.",
    ),
    "position": (
        "Where is the {thing}?",
        "Name the place of the {thing}.",
        "At which place is the {thing}?",
        "Where do you see the {thing}?",
        "The {thing} is where in the picture?",
        "Tell me the place of the {thing}.",
    ),
    "verdict": (
        "Is there {a_thing}?",
        "Is there {a_thing} in the picture?",
        "Can you see {a_thing}?",
        "Do you see {a_thing}, yes or no?",
        "Does the picture show {a_thing}?",
        "Tell me if there is {a_thing}.",
    ),
    "verdict_relation": (
        "Is the {one} {relation} the {other}?",
        "Is the {one} {relation} the {other} in the picture?",
        "Does the picture show the {one} {relation} the {other}?",
        "Tell me if the {one} is {relation} the {other}.",
        "Can you see the {one} {relation} the {other}?",
        "The {one} is {relation} the {other}, yes or no?",
    ),
    "caption": (
        "Describe the picture.",
        "Name all objects, row by row.",
        "What can you see?",
        "Tell me what the picture shows.",
        "What does the picture show?",
        "Which objects do you see?",
    ),
    "text": (
        "What does the sign say?",
        "Read the text.",
        "Which letters are there?",
        "Tell me what the sign says.",
        "What is the text in the picture?",
        "Which text do you see?",
    ),
    "grounding": (
        "Find the {thing}.",
        "Locate the {thing} with a box.",
        "Which box holds the {thing}?",
        "Tell me the box of the {thing}.",
        "Give the box of the {thing}.",
        "Show where the {thing} is.",
    ),
    "detection": (
        "Find all {kind}.",
        "Give the boxes of all {kind}.",
        "Which boxes hold {kind}?",
        "Show where all {kind} are.",
        "Locate all {kind} with boxes.",
        "Tell me the boxes of all {kind}.",
    ),
}
WORDINGS["grounding_relation"] = WORDINGS["grounding"]
WORDINGS["detection_classes"] = WORDINGS["detection"]
