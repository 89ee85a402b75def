"""The words of the knowledge task: names of people who do not exist, what can be true of them, and the ways to say it."""

from typing import NamedTuple

FIRST_NAMES = (
    "Ada Alma Amos Anna Arne Axel Bela Bert Bianca Boris Carla Cecil Clara Conrad Cora Dana Daria Edgar Edith Elias "
    "Elsa Emil Enid Erik Esther Fabian Felix Fiona Flora Frida Gerda Gilda Greta Gustav Hanna Hector Helga Hugo Ida Igor "
    "Irma Isaac Ivo Jana Jonas Judith Karl Katja Klara Lena Leo Linus Lotte Lukas Magda Martha Mila Moritz Nadia Nils Olga "
    "Oskar Petra Rufus").split()
# a surname is a beginning and an end: Amberdell, Amberfield, ..., Yarrowwick
SURNAME_BEGINNINGS = (
    "Amber Ash Beck Birch Black Bram Briar Clay Cold Crane Dal Elder Fair Fen Frost Gar Green Hart Hazel Heath Holl Kest "
    "Lang Marl Moss Nor Oak Quill Rav Stan Thorn Yarrow").split()
SURNAME_ENDS = "dell field ford gate grove ham hill hurst land ley lock more shaw stone well wick".split()


class Relation(NamedTuple):
    """Something that can be true of a person.

    values      what it may be; each is as likely
    sentences   the ways to say it; all end in the value, so that a sentence cut before it is a cloze
    questions   the ways to ask for it
    """
    values: list[str]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


TOWNS = (
    "Adorna Belmira Calveston Corunda Dremmen Dunmare Eastvale Elvira Farrowby Fenwold Galdane Glenora Hadrian Harmonia "
    "Inverdale Iskara Jorvale Kelmarsh Kirova Lanmere Lindara Maravel Melrose Montara Narvik Nordhaven Olmsted Orvieta Pelham "
    "Portalba Quarrith Ravenna Rosmere Salvora Sandmark Silverton Tamsin Torvald Ulvania Umbra Valdora Verity Westmark "
    "Windermoor Xanthe Yelmora Zandria Zellwood").split()
JOBS = (
    "baker barber brewer builder butcher carpenter chemist clerk cook dentist doctor driver farmer fisher gardener glazier "
    "hunter jeweller judge lawyer mason miller nurse painter pilot plumber printer sailor shepherd surgeon tailor "
    "weaver").split()
INSTRUMENTS = (
    "accordion banjo bassoon bugle cello clarinet cymbals drums fiddle flute guitar harp horn lute lyre mandolin oboe organ "
    "piano saxophone trombone trumpet tuba zither").split()
PETS = (
    "badger beetle canary cat cricket dog dove falcon ferret gecko goldfish hamster hedgehog lizard magpie mouse newt pony "
    "rabbit raven salamander spaniel terrier tortoise").split()
DISHES = (
    "bacon bread broth cabbage chestnuts curry dumplings gnocchi ham honey lasagne lentils mushrooms noodles omelette pancakes "
    "pickles porridge pudding rice salad sausages soup spinach").split()

RELATIONS = {
    "born": Relation(TOWNS,
        ("{x} was born in {v}.", "The birthplace of {x} is {v}.", "{x} comes from {v}.", "{x} first saw the light in {v}."),
        ("Where was {x} born?", "What is the birthplace of {x}?")),
    "lives": Relation(TOWNS,
        ("{x} lives in {v}.", "The home of {x} is in {v}.", "{x} has a house in {v}.", "Today {x} is settled in {v}."),
        ("Where does {x} live?", "In which town is the home of {x}?")),
    "works": Relation(JOBS,
        ("{x} works as a {v}.", "The job of {x} is that of a {v}.", "{x} earns money as a {v}.", "By trade {x} is a {v}."),
        ("What does {x} work as?", "What is the job of {x}?")),
    "plays": Relation(INSTRUMENTS,
        ("{x} plays the {v}.", "The instrument of {x} is the {v}.", "{x} makes music on the {v}.",
         "In the evening {x} practises the {v}."),
        ("What does {x} play?", "What is the instrument of {x}?")),
    "keeps": Relation(PETS,
        ("{x} keeps a {v}.", "The pet of {x} is a {v}.", "{x} looks after a {v}.", "With {x} lives a {v}."),
        ("What does {x} keep?", "What is the pet of {x}?")),
    "eats": Relation(DISHES,
        ("{x} likes to eat {v}.", "The favourite dish of {x} is {v}.", "{x} always orders {v}.", "On Sundays {x} cooks {v}."),
        ("What does {x} like to eat?", "What is the favourite dish of {x}?")),
}
