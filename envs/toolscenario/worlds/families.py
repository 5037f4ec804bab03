"""The relation families that are known by name, with their wording."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from toolgym.envs.toolscenario.worlds.relations import (
    Relation,
    date_relation,
    entity_relation,
    number_relation,
    point_relation,
    text_relation,
    year_relation,
)

__all__ = ["COMPOSITES", "RELATIONS"]

COMPOSITES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("headquarters", "country"): "the country where {s} has its headquarters",
        ("city", "country"): "the country where {s} is",
        ("port", "country"): "the country where {s} has its home port",
        ("premiere_city", "country"): "the country where {s} was first performed",
    }
)
"""Noun phrases for two relations in a row."""


_FOUNDED = ("What is the founding year of {s}?", "In which year was {s} founded?")
_HIGH = ("lies highest", "lies lowest")
_ALL = (
    entity_relation(
        "birthplace",
        "person",
        "city",
        ("the city where {s} was born",),
        ("In which city was {s} born?", "Where was {s} born?"),
    ),
    date_relation(
        "birth_date",
        "person",
        "the birth of {s}",
        ("When was {s} born?", "On what date was {s} born?"),
        ("find_date_of_birth",),
    ),
    date_relation(
        "death_date",
        "person",
        "the death of {s}",
        ("When did {s} die?", "On what date did {s} die?"),
        ("find_date_of_death",),
    ),
    entity_relation(
        "alma_mater",
        "person",
        "university",
        ("the university where {s} studied",),
        ("At which university did {s} study?",),
    ),
    entity_relation(
        "employer",
        "person",
        "company",
        ("the company that {s} works for",),
        ("Which company does {s} work for?",),
    ),
    entity_relation(
        "country",
        "city",
        "country",
        ("the country where {s} lies", "the country of {s}"),
        ("In which country is {s}?", "In which country does {s} lie?"),
        names=("get_country_of_city",),
    ),
    number_relation(
        "population",
        "city",
        "",
        ("How many people live in {s}?", "How many inhabitants does {s} have?"),
        ("has the most inhabitants", "has the fewest inhabitants"),
        "combined population",
    ),
    number_relation(
        "elevation", "city", "metres", ("How many metres above sea level is {s}?",), _HIGH
    ),
    year_relation(
        "founded_year",
        "city",
        "the founding of {s}",
        _FOUNDED,
        "was founded last",
        "was founded first",
    ),
    point_relation("city"),
    entity_relation("mayor", "city", "person", (), ("Who is mayor of {s}?",)),
    entity_relation("capital", "country", "city", (), ("What is the capital of {s}?",)),
    text_relation(
        "currency",
        "country",
        "currency code",
        ("Which currency is used in {s} (as its three-letter code)?",),
    ),
    text_relation(
        "iso_code",
        "country",
        "three-letter ISO code",
        ("Which three-letter ISO code does {s} have?",),
    ),
    text_relation(
        "official_language", "country", "official language", ("Which language is official in {s}?",)
    ),
    number_relation(
        "area",
        "country",
        "square kilometres",
        ("How many square kilometres does {s} cover?",),
        ("has the largest area", "has the smallest area"),
        "combined area",
    ),
    date_relation(
        "independence_date",
        "country",
        "the independence of {s}",
        ("On what date did {s} become independent?",),
    ),
    number_relation(
        "population",
        "country",
        "",
        ("How many people live in {s}?",),
        ("has the most inhabitants", "has the fewest inhabitants"),
        "combined population",
        "population",
    ),
    entity_relation(
        "author",
        "book",
        "person",
        ("the person who wrote {s}",),
        ("Who wrote {s}?", "Who is the author of {s}?"),
    ),
    year_relation(
        "publication_year",
        "book",
        "the publication of {s}",
        ("What is the publication year of {s}?", "In which year was {s} published?"),
        "was published last",
        "was published first",
    ),
    entity_relation("publisher", "book", "company", (), ("Which company published {s}?",)),
    number_relation(
        "page_count",
        "book",
        "",
        ("How many pages does {s} have?",),
        ("has the most pages", "has the fewest pages"),
        "total page count",
        "number of pages",
    ),
    entity_relation(
        "director", "film", "person", ("the person who directed {s}",), ("Who directed {s}?",)
    ),
    year_relation(
        "release_year",
        "film",
        "the release of {s}",
        ("What is the release year of {s}?", "In which year did {s} come out?"),
        "was released last",
        "was released first",
    ),
    number_relation(
        "running_time",
        "film",
        "minutes",
        ("How many minutes long is {s}?",),
        ("runs longest", "runs shortest"),
        "combined running time",
    ),
    entity_relation(
        "composer", "opera", "person", ("the person who composed {s}",), ("Who composed {s}?",)
    ),
    date_relation(
        "premiere_date", "opera", "the first performance of {s}", ("When was {s} first performed?",)
    ),
    entity_relation(
        "premiere_city",
        "opera",
        "city",
        ("the city where {s} was first performed",),
        ("In which city was {s} first performed?",),
        label="premiere city",
    ),
    entity_relation(
        "founder", "company", "person", ("the person who founded {s}",), ("Who founded {s}?",)
    ),
    entity_relation(
        "headquarters",
        "company",
        "city",
        ("the city where {s} has its headquarters",),
        ("In which city is {s} headquartered?", "In which city does {s} have its headquarters?"),
        label="headquarters city",
    ),
    year_relation(
        "founded_year",
        "company",
        "the founding of {s}",
        _FOUNDED,
        "was founded last",
        "was founded first",
    ),
    number_relation(
        "employees",
        "company",
        "",
        ("How many people does {s} employ?", "How many employees does {s} have?"),
        ("has the most employees", "has the fewest employees"),
        "combined number of employees",
        "number of employees",
    ),
    entity_relation(
        "city",
        "university",
        "city",
        ("the city where {s} is located",),
        ("In which city is {s}?",),
        label="city",
    ),
    year_relation(
        "founded_year",
        "university",
        "the founding of {s}",
        _FOUNDED,
        "was founded last",
        "was founded first",
    ),
    number_relation(
        "students",
        "university",
        "",
        ("How many students does {s} have?",),
        ("has the most students", "has the fewest students"),
        "combined number of students",
        "number of students",
    ),
    number_relation(
        "length",
        "river",
        "kilometres",
        ("How many kilometres long is {s}?", "How long is {s}, in kilometres?"),
        ("is longest", "is shortest"),
        "combined length",
        names=("get_river_length",),
    ),
    entity_relation(
        "source_country",
        "river",
        "country",
        ("the country where {s} rises",),
        ("In which country does {s} rise?", "In which country is the source of {s}?"),
        label="source country",
    ),
    number_relation(
        "height",
        "mountain",
        "metres",
        ("How many metres high is {s}?", "How high is {s}, in metres?"),
        ("is highest", "is lowest"),
        names=("get_mountain_height",),
    ),
    entity_relation(
        "country",
        "mountain",
        "country",
        ("the country where {s} lies", "the country of {s}"),
        ("In which country is {s}?", "In which country does {s} lie?"),
        label="country",
    ),
    date_relation(
        "first_ascent", "mountain", "the first ascent of {s}", ("When was {s} first climbed?",)
    ),
    date_relation("opening_date", "structure", "the opening of {s}", ("When was {s} opened?",)),
    date_relation("opening_date", "bridge", "the opening of {s}", ("When was {s} opened?",)),
    number_relation(
        "span",
        "bridge",
        "metres",
        ("How many metres long is the main span of {s}?",),
        ("has the longest main span", "has the shortest main span"),
        label="main span",
    ),
    entity_relation(
        "city",
        "bridge",
        "city",
        ("the city where {s} stands",),
        ("In which city is {s}?", "In which city does {s} stand?"),
        label="city",
    ),
    entity_relation(
        "manufacturer",
        "product",
        "company",
        ("the company that makes {s}",),
        ("Which company makes {s}?",),
    ),
    number_relation(
        "weight",
        "product",
        "grams",
        ("How many grams does {s} weigh?",),
        ("is heaviest", "is lightest"),
        "combined weight",
    ),
    number_relation(
        "price",
        "product",
        "credits",
        ("How many credits does {s} cost?",),
        ("costs most", "costs least"),
        "combined price",
    ),
    date_relation("launch_date", "product", "the launch of {s}", ("When was {s} launched?",)),
    number_relation(
        "atomic_weight",
        "element",
        "",
        (),
        ("has the largest atomic weight", "has the smallest atomic weight"),
        label="standard atomic weight",
    ),
    entity_relation(
        "port",
        "ship",
        "city",
        ("the city that is home port to {s}",),
        ("Which city is home port to {s}?",),
        label="home port",
    ),
    entity_relation("captain", "ship", "person", (), ("Who is captain of {s}?",)),
    number_relation(
        "tonnage",
        "ship",
        "tonnes",
        ("How many tonnes does {s} displace?",),
        ("is heaviest", "is lightest"),
        "combined displacement",
        "displacement",
    ),
    date_relation(
        "maiden_voyage",
        "ship",
        "the maiden voyage of {s}",
        ("When did {s} set out on its maiden voyage?",),
    ),
    point_relation("observatory"),
    number_relation(
        "elevation",
        "observatory",
        "metres",
        ("How many metres above sea level is {s}?",),
        _HIGH,
        label="elevation",
    ),
    entity_relation(
        "country",
        "observatory",
        "country",
        ("the country where {s} stands", "the country of {s}"),
        ("In which country is {s}?", "In which country does {s} stand?"),
        label="country",
    ),
)

RELATIONS: Mapping[tuple[str, str], Relation] = MappingProxyType(
    {(item.subject, item.name): item for item in _ALL}
)
"""Relations by type of subject and name."""
