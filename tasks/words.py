"""The words of the reasoning world: the things that are counted, and the texts of facts, questions and steps."""

from collections.abc import Callable, Sequence

from tasks.facts import Leaf, Step

CONTEXTS = {  # the words of a context: its name, and thirty-two kinds of things to count
    "zoo": ("Zoo",
        "lions owls bears foxes wolves zebras otters seals camels hippos rhinos monkeys parrots eagles swans "
        "cranes turtles snakes frogs lizards tigers pandas koalas lemurs goats sheep horses donkeys deer "
        "moose geese ducks"),
    "school": ("School",
        "painters singers dancers readers writers runners swimmers climbers drummers actors chemists poets "
        "tutors coaches cooks nurses editors builders farmers pilots sailors bakers lawyers judges guards "
        "clerks porters tailors weavers potters miners divers"),
    "festival": ("Film festival",
        "dramas comedies westerns thrillers musicals cartoons romances epics mysteries satires parodies "
        "shorts serials sequels remakes tragedies fantasies horrors biopics noirs spoofs sagas farces pilots "
        "trailers premieres classics debuts revivals anthems ballets operas"),
    "market": ("Market",
        "apples pears plums figs dates grapes lemons limes melons peaches cherries mangoes onions carrots "
        "beans peas leeks beets radishes turnips olives nuts eggs loaves cheeses fishes crabs candles baskets "
        "flowers roses tulips"),
}
PLACES = ["Oak Park", "Elm Yard", "Pine Hall", "Ash Court", "Fir Lane", "Birch Row", "Cedar Gate", "Maple End"]
OPERATORS = {"+": "plus", "-": "minus", "*": "times"}

# Several wordings of the same sentence; `paraphrase=n` uses the first n. The first is the simplest.
SAY_LEAF = ["The {x} number {v}.", "There are {v} {x}.", "We count {v} {x}.", "Of {x} there are {v}."]
SAY_STEP = ["The {x} number {e}.", "There are as many {x} as {e}.", "To count the {x}, take {e}.",
            "Of {x} there are {e}."]
ASK = ["How many {x}?", "How many {x} are there?", "What is the number of {x}?", "Count the {x}."]


def question_text(facts: Sequence[Leaf | Step], asked: str, context: str, modulus: int, pick: Callable[[], int]) -> str:
    """The question: the context, the facts in their order, and what is asked. pick() chooses one of the wordings."""
    sentences = [CONTEXTS[context][0] + (f", mod {modulus}." if modulus else ".")]
    sentences += [fact_text(fact, pick()) for fact in facts]
    sentences.append(ASK[pick()].format(x=asked))
    return " ".join(sentences)


def fact_text(fact: Leaf | Step, way: int = 0) -> str:
    """The sentence of a fact, in one of its wordings."""
    if isinstance(fact, Leaf):
        return SAY_LEAF[way].format(x=fact.name, v=fact.value)
    expression = f"{_with_article(fact.left)} {OPERATORS[fact.op]} {_with_article(fact.right)}"
    return SAY_STEP[way].format(x=fact.target, e=expression)


def solution_lines(steps: Sequence[Step], values: dict[str, int]) -> list[str]:
    """One line for each step: "lions 3 + 4 = owls 7"."""
    return [step_text(step, values) for step in steps]


def step_text(s: Step, values: dict[str, int]) -> str:
    return f"{_with_value(s.left, values)} {s.op} {_with_value(s.right, values)} = {s.target} {s.value}"


def _with_article(operand: str | int) -> str | int:
    return operand if isinstance(operand, int) else f"the {operand}"


def _with_value(operand: str | int, values: dict[str, int]) -> str | int:
    """An operand in a solution. Every name, also that of the result, has its value directly after it. To copy the value of an
    earlier quantity is the skill that a model learns last, and with this wording it learns it soonest."""
    return operand if isinstance(operand, int) else f"{operand} {values[operand]}"
