"""Worked examples that stand before a question of a benchmark. They were written for this repository: none is from a benchmark.

There are as many as OctoThinker showed (arXiv 2506.20512): 8 word problems (for GSM8K, ASDiv, MAWPS, SVAMP and TabMWP), and 4
each for MATH (and OlympiadBench), SAT, MathQA, MMLU-STEM and OCW. AMC23 is asked without.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shot:
    question: str
    working: str
    answer: str                       # as it follows "The answer is"
    choices: tuple[str, ...] = ()


SHOTS = {
    "gsm": (
        Shot("A baker fills 6 trays with 8 rolls each. In the morning he sells 31 rolls. How many rolls are left?",
             "The trays hold 6 * 8 = 48 rolls. After the sale 48 - 31 = 17 rolls are left.", "17"),
        Shot("Nadia reads 14 pages on each of the five school days and 25 pages on each day of the weekend. How many pages does "
             "she read in a week?",
             "On school days she reads 5 * 14 = 70 pages. On the weekend she reads 2 * 25 = 50 pages. Together that is "
             "70 + 50 = 120 pages.", "120"),
        Shot("A ferry ticket costs $7 for an adult and $4 for a child. How much do two adults and five children pay?",
             "The adults pay 2 * 7 = 14 dollars. The children pay 5 * 4 = 20 dollars. Together they pay 14 + 20 = 34 dollars.",
             "34"),
        Shot("A pump fills a tank with 15 litres of water a minute, but 3 litres a minute leak out. The empty tank holds 240 "
             "litres. After how many minutes is it full?",
             "Each minute the tank gains 15 - 3 = 12 litres. It is full after 240 / 12 = 20 minutes.", "20"),
        Shot("Omar is three times as old as his cousin. In 6 years he will be twice as old as she will be then. How old is his "
             "cousin now?",
             "If the cousin is x years old, Omar is 3x years old. In 6 years 3x + 6 = 2 * (x + 6) = 2x + 12, so x = 6.", "6"),
        Shot("A jacket costs $80. In a sale its price falls by 25%. With a voucher Lena pays $9 less than the price in the sale. "
             "How many dollars does she pay?",
             "The price falls by 80 * 25 / 100 = 20 dollars, to 80 - 20 = 60 dollars. With the voucher she pays 60 - 9 = 51 "
             "dollars.", "51"),
        Shot("One third of 45 pupils come to school by bus, and 12 pupils walk. The others come by bike. How many come by bike?",
             "By bus come 45 / 3 = 15 pupils. By bike come 45 - 15 - 12 = 18 pupils.", "18"),
        Shot("A rope of 9 metres is cut into pieces of 0.75 metres. Each piece is sold for $2. How many dollars do all pieces "
             "bring in?",
             "The rope gives 9 / 0.75 = 12 pieces. They bring in 12 * 2 = 24 dollars.", "24")),
    "math": (
        Shot("If $f(x) = 3x^2 - 4x$ and $g(x) = x + 2$, what is $f(g(1))$?",
             "We have $g(1) = 1 + 2 = 3$, and $f(3) = 3 \\cdot 9 - 4 \\cdot 3 = 27 - 12 = 15$.", "$15$"),
        Shot("Solve $\\frac{5}{x} + \\frac{1}{3} = 1$ for $x$.",
             "Subtracting $\\frac{1}{3}$ gives $\\frac{5}{x} = \\frac{2}{3}$. Hence $2x = 15$ and $x = \\frac{15}{2}$.",
             "$\\frac{15}{2}$"),
        Shot("How many two-digit numbers have digits whose sum is 9?",
             "The first digit can be any of $1, 2, \\ldots, 9$, and it leaves one choice for the second digit, from $8$ down to "
             "$0$. So there are $9$ such numbers.", "$9$"),
        Shot("A right triangle has legs of length $1$ and $3$. What is the radius of the circle through its three vertices?",
             "The hypotenuse is a diameter of this circle. Its length is $\\sqrt{1^2 + 3^2} = \\sqrt{10}$, so the radius is half "
             "of that.", "$\\frac{\\sqrt{10}}{2}$")),
    "sat": (
        Shot("If $5(x - 2) = 3x + 8$, what is the value of $x$?",
             "Multiplying out gives $5x - 10 = 3x + 8$, so $2x = 18$ and $x = 9$.", "(C)", ("1", "5", "9", "18")),
        Shot("A line passes through the points $(0, 4)$ and $(6, 1)$. What is the slope of the line?",
             "The slope is $\\frac{1 - 4}{6 - 0} = -\\frac{1}{2}$.", "(B)",
             ("$-2$", "$-\\frac{1}{2}$", "$\\frac{1}{2}$", "$2$")),
        Shot("In a survey, 36 of 150 customers said that they would come back within a week. At this rate, how many of 2,000 "
             "customers would come back within a week?",
             "The rate is $\\frac{36}{150} = 0.24$, and $0.24 \\cdot 2000 = 480$.", "(D)", ("54", "240", "360", "480")),
        Shot("Which expression is equivalent to $(2a - 3)^2 + 12a$?",
             "The square is $4a^2 - 12a + 9$. Adding $12a$ leaves $4a^2 + 9$.", "(A)",
             ("$4a^2 + 9$", "$4a^2 - 9$", "$4a^2 + 24a + 9$", "$2a^2 + 12a - 9$"))),
    "mathqa": (
        Shot("a train of 180 m runs at 54 km / h . in how many seconds does it pass a pole ?",
             "54 km / h is 54 * 1000 / 3600 = 15 m / s. The train needs 180 / 15 = 12 seconds.", "(C)",
             ("9", "10", "12", "15", "18")),
        Shot("the average of 5 numbers is 24 . without one of them , the average of the others is 22 . which number is it ?",
             "All numbers add up to 5 * 24 = 120, the others to 4 * 22 = 88. The number is 120 - 88 = 32.", "(D)",
             ("26", "28", "30", "32", "34")),
        Shot("in 3 years $ 800 bring simple interest of $ 120 . what is the rate of interest per year ?",
             "A year brings 120 / 3 = 40 dollars, and 40 / 800 = 0.05 = 5 %.", "(B)", ("4 %", "5 %", "6 %", "8 %", "15 %")),
        Shot("one worker paints a fence in 10 days , another one in 15 days . in how many days do they paint it together ?",
             "In a day they paint 1 / 10 + 1 / 15 = 5 / 30 = 1 / 6 of the fence, so they need 6 days.", "(A)",
             ("6", "6.5", "7.5", "12.5", "25"))),
    "mmlu_stem": (
        Shot("A stone falls from rest for 3 seconds, without resistance of the air, where g = 10 m/s^2. How far does it fall?",
             "The distance is g t^2 / 2 = 10 * 9 / 2 = 45 m.", "(C)", ("15 m", "30 m", "45 m", "90 m")),
        Shot("How many bits are needed to give each of 200 items a binary code of its own, if all codes have the same length?",
             "There are 2^7 = 128 codes of 7 bits, which are too few, and 2^8 = 256 codes of 8 bits, which are enough.", "(B)",
             ("7", "8", "9", "100")),
        Shot("A plant with the genotype Aa is crossed with a plant with the genotype aa. Which share of the offspring is "
             "expected to be Aa?",
             "The second plant always passes on a. The first one passes on A in half of the cases, so half of the offspring are "
             "Aa.", "(D)", ("none", "one quarter", "three quarters", "one half")),
        Shot("What is the pH of a 0.001 M solution of a strong acid that gives off one proton?",
             "The acid dissociates completely, so the concentration of protons is 0.001 = 10^-3 M, and the pH is 3.", "(A)",
             ("3", "1", "0.001", "11"))),
    "ocw": (
        Shot("A laser emits light of wavelength $500 \\mathrm{~nm}$ with a power of $2.0 \\mathrm{~mW}$. How many photons does "
             "it emit per second? Use $h = 6.6 \\times 10^{-34} \\mathrm{~J~s}$ and $c = 3.0 \\times 10^{8} \\mathrm{~m} / "
             "\\mathrm{s}$, and give two significant figures.",
             "A photon has the energy $h c / \\lambda = 6.6 \\times 10^{-34} \\cdot 3.0 \\times 10^{8} / (5.0 \\times 10^{-7}) = "
             "3.96 \\times 10^{-19} \\mathrm{~J}$. Per second there are $2.0 \\times 10^{-3} / (3.96 \\times 10^{-19})$ photons, "
             "which is about $5.1 \\times 10^{15}$.", "$5.1 \\times 10^{15}$"),
        Shot("Find the Laplace transform $F(s)$ of $f(t) = 3 e^{-2 t}$ for $t \\geq 0$.",
             "The transform of $e^{-a t}$ is $\\frac{1}{s + a}$. With $a = 2$ and the factor $3$ this gives $\\frac{3}{s + 2}$.",
             "$\\frac{3}{s + 2}$"),
        Shot("A reaction of first order has the rate constant $k = 0.035 \\mathrm{~s}^{-1}$. What is its half-life in seconds, "
             "to two significant figures?",
             "The half-life is $\\ln 2 / k = 0.693 / 0.035 = 19.8$, which rounds to $20$.", "$20$"),
        Shot("Solve $y^{\\prime} = -4 y$ with $y(0) = 5$ for $y(t)$.",
             "The solutions are $y = C e^{-4 t}$, and $y(0) = 5$ gives $C = 5$.", "$5 e^{-4 t}$")),
}
