"""Plain English sentences of six to twelve words, without commas, so that nobody pauses for long."""

_SUBJECTS = (
    "the old sailor", "my younger sister", "a tired teacher", "the village doctor", "our noisy neighbour",
    "the night watchman", "her favourite uncle", "a careful painter", "the new manager", "his quiet daughter",
    "the bus driver", "a famous singer", "the local farmer", "every honest baker", "the young engineer",
    "some hungry children", "two grey horses", "the chess players", "seven brave firemen", "many happy students",
)  # fmt: skip
_VERBS = (
    "carried", "found", "dropped", "painted", "borrowed", "sold", "watched", "cleaned", "forgot", "measured",
    "repaired", "brought", "covered", "moved", "chose", "noticed", "guarded", "collected", "admired", "wrapped",
)  # fmt: skip
_OBJECTS = (
    "a heavy basket", "the wooden ladder", "five red apples", "an empty bottle", "the broken window", "a silver watch",
    "the yellow paper", "fresh brown bread", "his winter jacket", "a box of matches", "the garden chairs",
    "an unusual picture", "the rusty bicycle", "a bunch of flowers", "the kitchen table", "three small boats",
    "a jar of honey", "the leather shoes", "some cheap furniture", "a very thick book",
)  # fmt: skip
_PLACES = (
    "near the station", "behind the church", "across the bridge", "under the apple tree", "at the market",
    "by the frozen lake", "in the next room", "along the river", "outside the theatre", "on the top shelf",
    "beside the fire", "between two houses", "in front of the bank", "above the harbour", "at the edge of town",
)  # fmt: skip
_TIMES = (
    "before sunrise", "every Thursday", "late last night", "in early spring", "after the storm", "this morning",
    "for several hours", "once a week", "until midnight", "during the holiday", "on her birthday", "last September",
)  # fmt: skip
_ADVICE = (
    "please", "you should", "we could", "they want to", "she hopes to", "nobody has to", "I would rather", "let us",
)  # fmt: skip
_ACTIONS = (
    "open the door", "wait for the train", "read the whole letter", "turn off the radio", "walk to the museum",
    "ask for directions", "feed the chickens", "write down the number", "fetch a glass of water", "call the police",
    "choose a different colour", "leave the keys", "wash the dishes", "buy another ticket", "listen to the music",
)  # fmt: skip
_FACTS = (
    "the weather", "this narrow road", "their business", "the price of coffee", "a good idea", "the last chapter",
    "that strange noise", "the water in the pool", "my first impression", "the view from here", "its final version",
)  # fmt: skip
_JUDGEMENTS = (
    "is much better than we thought", "was difficult to understand", "seems rather unusual", "has changed since June",
    "could not have been worse", "will surprise most visitors", "is worth a closer look", "was almost too good",
    "makes everybody nervous", "gives me enough to think about", "looks like a mistake", "costs more than a house",
)  # fmt: skip


def sentence(generator):
    """Return one sentence, drawn with an np.random.Generator out of more than 300,000."""

    def pick(words):
        return words[generator.integers(len(words))]

    kind = generator.integers(5)
    if kind == 0:
        words = f"{pick(_SUBJECTS)} {pick(_VERBS)} {pick(_OBJECTS)} {pick(_PLACES)}"
    elif kind == 1:
        words = f"{pick(_TIMES)} {pick(_SUBJECTS)} {pick(_VERBS)} {pick(_OBJECTS)}"
    elif kind == 2:
        words = f"{pick(_ADVICE)} {pick(_ACTIONS)} {pick(_PLACES)} {pick(_TIMES)}"
    elif kind == 3:
        words = f"{pick(_FACTS)} {pick(_PLACES)} {pick(_JUDGEMENTS)}"
    else:
        words = f"{pick(_SUBJECTS)} {pick(_VERBS)} {pick(_OBJECTS)} {pick(_TIMES)}"
    return words[0].upper() + words[1:] + "."


def sentences(count, generator):
    """Return ``count`` different sentences."""
    found = {}
    while len(found) < count:
        found.setdefault(sentence(generator))
    return list(found)
