"""What is wrong with a text that a model wrote about a document, by rules that need no model.

Small teachers fail in a few ways again and again: they talk about the request in place of the subject, they repeat themselves
to the end of their room, or they write about something else. Each function here finds one of these.
"""

import re

# Phrases of someone who talks about being asked. "The user clicks here" is no such phrase, and neither is one that stands in the
# document itself.
REQUEST = re.compile(r"""
    \bthe\ user(?:'s)?\ (?:wants?|asks?|asked|is\ asking|needs?|requests?|requested|would\ like|provided|gave|shared|said|query
        |question|prompt|message|instructions?|input)\b
    | \b(?:my|your|these|the|this)\ (?:instructions?|request|prompt|task|assignment)\ (?:is|are|was|were|asks?|asked|says?|said
        |wants?|requires?|tells?|states?)\b
    | \bI(?:'m|'ve\ been|\ am|\ was|\ have\ been)\ (?:asked|told|instructed|supposed|given|prompted|required)\b
    | \b(?:as|being)\ an?\ (?:AI|artificial\ intelligence|(?:large\ )?language\ model|assistant)\b
    | \bhow\ (?:can|may)\ I\ (?:help|assist)\b | \bI\ (?:can(?:not|'t)|am\ unable\ to|'m\ unable\ to|am\ sorry|'m\ sorry)\b
    | \b(?:here\ is|here's|here\ are|below\ is|this\ is)\ (?:the|a|an|my|your)\ (?:re-?written|re-?phrased|paraphrased|revised
        |reworded|new|simplified|possible|detailed)\b
    | \b(?:I'll|I\ will|I\ can|let\ me|I'm\ going\ to(?:\ try\ to)?)\ (?:re-?phrase|re-?write|rework|summari[sz]e
        |make\ (?:it|this|the\ text)\ more)\b
    | \byour\ (?:analysis|text|question|request|document|passage|essay|draft|writing)\b
    | \b(?:let\ me\ know\ if|hope\ this\ helps|feel\ free\ to\ ask)\b | ^\s*(?:sure|certainly|of\ course|absolutely)[,!.]
    """, re.X | re.I | re.M)

COMMON = set("""
    a about above after again all also an and another any are as at be because been before being between both but by can
    could did do does doing down each even few for from had has have having he her here him his how i if in into is it its
    just like made make may me more most much must my no not now of off on one only or other our out over own same she
    should so some such than that the their them then there these they thing things this those through to too two under up
    us use used very was we well were what when where which while who why will with would you your
""".split())


def about_the_request(text: str, document: str = "", prompt: str = "", n: int = 5) -> bool:
    """Whether it talks about being asked, in a phrase that the document does not have; or says again what it was asked: n words
    in a row that stand in the prompt (without the document)."""
    known = document.lower()
    if any(found.group().lower() not in known for found in REQUEST.finditer(text)):
        return True
    said, told, asked = (set(grams(re.findall(r"\w+", part.lower()), n)) for part in (text, document, prompt))
    return bool(said & asked - told)


def grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]


def repeated_share(text: str, n: int = 6) -> float:
    """The share of its n-grams of words that stand there a second time, or a third, ...; 0.0 for a short text."""
    found = grams(re.findall(r"\w+|[^\w\s]", text.lower()), n)
    return 1 - len(set(found)) / len(found) if len(found) >= 4 * n else 0.0


def content_words(text: str) -> set[str]:
    """Its words without the common ones; of a text without such words the numbers."""
    words = {word for word in re.findall(r"[^\W\d_]{3,}", text.lower()) if word not in COMMON}
    return words or set(re.findall(r"\d+", text))


def overlap(text: str, document: str) -> float:
    """How far the two speak of the same: the words that both have, as a share of those of the one that has fewer
    (Szymkiewicz-Simpson). 0.0 where one has none."""
    a, b = content_words(text), content_words(document)
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def copied_share(text: str, document: str, n: int = 5) -> float:
    """The share of the text's n-grams of words that the document has as well; of a text shorter than that 1.0 where the document
    holds it, else 0.0."""
    copies, original = (grams(re.findall(r"\w+", part.lower()), n) for part in (text, document))
    if not copies:
        return float(" ".join(text.lower().split()) in " ".join(document.lower().split()))
    known = set(original)
    return sum(gram in known for gram in copies) / len(copies)


def numbers(text: str) -> set[str]:
    """The numbers in a text, without thousands separators."""
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)))
