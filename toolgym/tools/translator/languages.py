"""Languages by what people call them: FLORES-200 and ISO 639 codes, BCP 47 tags, English names."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection

from toolgym.errors import BadInputError, did_you_mean

__all__ = [
    "ALIASES",
    "SCRIPTS",
    "TABLE",
    "english_name",
    "find_language",
    "language_codes",
    "script_of",
    "short_code",
]

TABLE = """
ace_Latn -- Acehnese
ace_Arab -- Acehnese
acm_Arab -- Mesopotamian Arabic, Iraqi Arabic
acq_Arab -- Ta'izzi-Adeni Arabic, Yemeni Arabic
aeb_Arab -- Tunisian Arabic
afr_Latn af Afrikaans
ajp_Arab -- South Levantine Arabic, Palestinian Arabic, Jordanian Arabic
aka_Latn ak Akan
als_Latn sq Albanian, Tosk Albanian
amh_Ethi am Amharic
apc_Arab -- North Levantine Arabic, Lebanese Arabic, Syrian Arabic, Levantine Arabic
arb_Arab ar Arabic, Modern Standard Arabic, Standard Arabic
ars_Arab -- Najdi Arabic
ary_Arab -- Moroccan Arabic, Darija
arz_Arab -- Egyptian Arabic
asm_Beng as Assamese
ast_Latn -- Asturian
awa_Deva -- Awadhi
ayr_Latn ay Aymara, Central Aymara
azj_Latn az Azerbaijani, North Azerbaijani, Azeri
azb_Arab -- South Azerbaijani
bak_Cyrl ba Bashkir
bam_Latn bm Bambara
ban_Latn -- Balinese
bel_Cyrl be Belarusian
bem_Latn -- Bemba
ben_Beng bn Bengali, Bangla
bho_Deva -- Bhojpuri
bjn_Latn -- Banjar
bjn_Arab -- Banjar
bod_Tibt bo Tibetan, Standard Tibetan
bos_Latn bs Bosnian
bug_Latn -- Buginese
bul_Cyrl bg Bulgarian
cat_Latn ca Catalan, Valencian
ceb_Latn -- Cebuano
ces_Latn cs Czech
cjk_Latn -- Chokwe
ckb_Arab -- Central Kurdish, Sorani
crh_Latn -- Crimean Tatar
cym_Latn cy Welsh
dan_Latn da Danish
deu_Latn de German
dik_Latn -- Dinka, Southwestern Dinka
dyu_Latn -- Dyula
dzo_Tibt dz Dzongkha
ell_Grek el Greek, Modern Greek
eng_Latn en English
epo_Latn eo Esperanto
est_Latn et Estonian
eus_Latn eu Basque
ewe_Latn ee Ewe
fao_Latn fo Faroese
fij_Latn fj Fijian
fin_Latn fi Finnish
fon_Latn -- Fon
fra_Latn fr French
fur_Latn -- Friulian
fuv_Latn ff Fulfulde, Nigerian Fulfulde, Fulah
gaz_Latn om Oromo, West Central Oromo
gla_Latn gd Scottish Gaelic
gle_Latn ga Irish
glg_Latn gl Galician
grn_Latn gn Guarani
guj_Gujr gu Gujarati
hat_Latn ht Haitian Creole, Haitian
hau_Latn ha Hausa
heb_Hebr he Hebrew
hin_Deva hi Hindi
hne_Deva -- Chhattisgarhi
hrv_Latn hr Croatian
hun_Latn hu Hungarian
hye_Armn hy Armenian
ibo_Latn ig Igbo
ilo_Latn -- Ilocano
ind_Latn id Indonesian
isl_Latn is Icelandic
ita_Latn it Italian
jav_Latn jv Javanese
jpn_Jpan ja Japanese
kab_Latn -- Kabyle
kac_Latn -- Jingpho, Kachin
kam_Latn -- Kamba
kan_Knda kn Kannada
kas_Arab ks Kashmiri
kas_Deva -- Kashmiri
kat_Geor ka Georgian
kaz_Cyrl kk Kazakh
kbp_Latn -- Kabiye
kea_Latn -- Kabuverdianu, Cape Verdean Creole
khk_Cyrl mn Mongolian, Halh Mongolian
khm_Khmr km Khmer, Cambodian
kik_Latn ki Kikuyu
kin_Latn rw Kinyarwanda
kir_Cyrl ky Kyrgyz, Kirghiz
kmb_Latn -- Kimbundu
kmr_Latn ku Kurdish, Northern Kurdish, Kurmanji
knc_Latn kr Kanuri, Central Kanuri
knc_Arab -- Kanuri, Central Kanuri
kon_Latn kg Kikongo, Kongo
kor_Hang ko Korean
lao_Laoo lo Lao
lij_Latn -- Ligurian
lim_Latn li Limburgish
lin_Latn ln Lingala
lit_Latn lt Lithuanian
lmo_Latn -- Lombard
ltg_Latn -- Latgalian
ltz_Latn lb Luxembourgish
lua_Latn -- Luba-Kasai, Tshiluba
lug_Latn lg Ganda, Luganda
luo_Latn -- Luo
lus_Latn -- Mizo
lvs_Latn lv Latvian, Standard Latvian
mag_Deva -- Magahi
mai_Deva -- Maithili
mal_Mlym ml Malayalam
mar_Deva mr Marathi
min_Latn -- Minangkabau
mkd_Cyrl mk Macedonian
mlt_Latn mt Maltese
mni_Beng -- Meitei, Manipuri
mos_Latn -- Mossi
mri_Latn mi Maori
mya_Mymr my Burmese
nld_Latn nl Dutch, Flemish
nno_Latn nn Norwegian Nynorsk
nob_Latn no Norwegian, Norwegian Bokmal
npi_Deva ne Nepali
nso_Latn -- Northern Sotho, Sepedi
nus_Latn -- Nuer
nya_Latn ny Nyanja, Chichewa
oci_Latn oc Occitan
ory_Orya or Odia, Oriya
pag_Latn -- Pangasinan
pan_Guru pa Punjabi, Eastern Panjabi, Panjabi
pap_Latn -- Papiamento
pbt_Arab ps Pashto, Southern Pashto
pes_Arab fa Persian, Western Persian, Farsi
plt_Latn mg Malagasy, Plateau Malagasy
pol_Latn pl Polish
por_Latn pt Portuguese
prs_Arab -- Dari
quy_Latn qu Quechua, Ayacucho Quechua
ron_Latn ro Romanian, Moldovan
run_Latn rn Rundi, Kirundi
rus_Cyrl ru Russian
sag_Latn sg Sango
san_Deva sa Sanskrit
sat_Beng -- Santali
scn_Latn -- Sicilian
shn_Mymr -- Shan
sin_Sinh si Sinhala, Sinhalese
slk_Latn sk Slovak
slv_Latn sl Slovenian, Slovene
smo_Latn sm Samoan
sna_Latn sn Shona
snd_Arab sd Sindhi
som_Latn so Somali
sot_Latn st Southern Sotho, Sesotho
spa_Latn es Spanish, Castilian
srd_Latn sc Sardinian
srp_Cyrl sr Serbian
ssw_Latn ss Swati, Swazi
sun_Latn su Sundanese
swe_Latn sv Swedish
swh_Latn sw Swahili
szl_Latn -- Silesian
tam_Taml ta Tamil
taq_Latn -- Tamasheq
taq_Tfng -- Tamasheq
tat_Cyrl tt Tatar
tel_Telu te Telugu
tgk_Cyrl tg Tajik
tgl_Latn tl Tagalog, Filipino
tha_Thai th Thai
tir_Ethi ti Tigrinya
tpi_Latn -- Tok Pisin
tsn_Latn tn Tswana, Setswana
tso_Latn ts Tsonga
tuk_Latn tk Turkmen
tum_Latn -- Tumbuka
tur_Latn tr Turkish
twi_Latn tw Twi
tzm_Tfng -- Central Atlas Tamazight, Tamazight
uig_Arab ug Uyghur
ukr_Cyrl uk Ukrainian
umb_Latn -- Umbundu
urd_Arab ur Urdu
uzn_Latn uz Uzbek, Northern Uzbek
vec_Latn -- Venetian
vie_Latn vi Vietnamese
war_Latn -- Waray
wol_Latn wo Wolof
xho_Latn xh Xhosa
ydd_Hebr yi Yiddish, Eastern Yiddish
yor_Latn yo Yoruba
yue_Hant -- Cantonese, Yue Chinese
zho_Hans zh Chinese, Mandarin, Mandarin Chinese
zho_Hant -- Chinese, Mandarin, Mandarin Chinese
zsm_Latn ms Malay, Standard Malay
zul_Latn zu Zulu
"""

ALIASES = {
    # ISO 639-3 macrolanguages, and individual languages that NLLB files under another code.
    "ara": "arb_Arab", "aym": "ayr_Latn", "aze": "azj_Latn", "cmn": "zho_Hans", "din": "dik_Latn",
    "ekk": "est_Latn", "fas": "pes_Arab", "fil": "tgl_Latn", "ful": "fuv_Latn", "gug": "grn_Latn",
    "kau": "knc_Latn", "ktu": "kon_Latn", "kur": "kmr_Latn", "lav": "lvs_Latn", "mlg": "plt_Latn",
    "mon": "khk_Cyrl", "msa": "zsm_Latn", "nep": "npi_Deva", "nor": "nob_Latn", "ori": "ory_Orya",
    "orm": "gaz_Latn", "pus": "pbt_Arab", "que": "quy_Latn", "sqi": "als_Latn", "swa": "swh_Latn",
    "uzb": "uzn_Latn", "yid": "ydd_Hebr",
    # ISO 639-1 and BCP 47 beside those of the table, and withdrawn codes still met.
    "nb": "nob_Latn", "in": "ind_Latn", "iw": "heb_Hebr", "ji": "ydd_Hebr",
    # ISO 639-2/B, where it differs from 639-3.
    "alb": "als_Latn", "arm": "hye_Armn", "baq": "eus_Latn", "bur": "mya_Mymr", "chi": "zho_Hans",
    "cze": "ces_Latn", "dut": "nld_Latn", "fre": "fra_Latn", "geo": "kat_Geor", "ger": "deu_Latn",
    "gre": "ell_Grek", "ice": "isl_Latn", "mac": "mkd_Cyrl", "mao": "mri_Latn", "may": "zsm_Latn",
    "per": "pes_Arab", "rum": "ron_Latn", "slo": "slk_Latn", "tib": "bod_Tibt", "wel": "cym_Latn",
    # Regions that say the script.
    "zh-TW": "zho_Hant", "zh-HK": "zho_Hant", "zh-MO": "zho_Hant",
    # FLORES-200's own code of a language that the model's vocabulary files under another.
    "sat_Olck": "sat_Beng",
}  # fmt: skip

SCRIPTS = {
    "Arab": "Arabic", "Beng": "Bengali", "Cyrl": "Cyrillic", "Deva": "Devanagari", "Latn": "Latin",
    "Hans": "Simplified", "Hant": "Traditional", "Tfng": "Tifinagh",
}  # fmt: skip


_FORMS = "a FLORES-200 code ('fra_Latn'), an ISO 639 code ('fr', 'fra') or a name ('French')"
_WORDS = re.compile(r"[^\W_']+(?:'[^\W_']+)*")
_NOISE = frozenset(["script", "language"])
_TAG = re.compile(
    r"([A-Za-z]{2,3})[-_]([A-Za-z]{4}|[A-Za-z]{2}|[0-9]{3})(?:[-_]([A-Za-z]{2}|[0-9]{3}))?"
)


@functools.cache
def _rows() -> dict[str, tuple[str, list[str]]]:
    """FLORES-200 code to ISO 639-1 code (or nothing) and English names."""
    rows = (line.split(" ", 2) for line in TABLE.strip().splitlines())
    return {code: (two.strip("-"), names.split(", ")) for code, two, names in rows}


@functools.cache
def _index() -> dict[str, str]:
    """Every known way to write a language, folded, to its code."""
    index: dict[str, str] = {}
    for code, (two, names) in _rows().items():
        script = SCRIPTS.get(code[4:])
        index[code.casefold()] = code
        for short in (two, code[:3]):
            if short:
                index.setdefault(short, code)
        for name in names:
            index.setdefault(_fold(name), code)
            if script:
                index.setdefault(_fold(f"{name} {script}"), code)
    for alias, code in ALIASES.items():
        index.setdefault(alias.casefold(), code)
    return index


def _fold(name: str) -> str:
    """A name's words, without case, accents, order and the words that say nothing."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(char for char in plain if not unicodedata.combining(char))
    return " ".join(sorted(word for word in _WORDS.findall(bare) if word not in _NOISE))


def language_codes() -> list[str]:
    """The FLORES-200 codes of all languages of NLLB-200, sorted."""
    return sorted(_rows())


def find_language(name: str, more: Collection[str] = ()) -> str:
    """The FLORES-200 code of a language.

    A name that means several is decided: Chinese is ``zho_Hans``, Arabic ``arb_Arab``, Serbian
    ``srp_Cyrl``, Norwegian ``nob_Latn``, Kurdish ``kmr_Latn``, Persian ``pes_Arab``, Malay
    ``zsm_Latn``; of languages in several scripts the one that most is written in.

    Args:
        name: ``fra_Latn``, ``fr``, ``fra``, ``fre``, ``fr-CA``, ``French``; case does not matter.
        more: further codes that count, such as those that were added to a model.

    Raises:
        BadInputError: no language of NLLB-200 is called so.
    """
    if name in more:
        return name
    index, wanted = _index(), str(name).strip()
    found = index.get(wanted.casefold()) or index.get(_fold(wanted)) or _by_tag(wanted)
    if found:
        return found
    known = [*_rows(), *(name for _, names in _rows().values() for name in names)]
    shown = wanted if len(wanted) <= 60 else wanted[:57] + "..."
    raise BadInputError(
        f"unknown language {shown!r}{did_you_mean(shown, known)}; name it by {_FORMS}"
    )


def _by_tag(tag: str) -> str | None:
    """A language of a tag such as ``zh-Hant``, ``sr_Cyrl_RS`` or ``pt-BR``; the region is idle."""
    parts = _TAG.fullmatch(tag)
    if parts is None:
        return None
    language, second, region = parts[1].lower(), parts[2], parts[3]
    code = _index().get(language)
    if code is None or len(second) == 4:  # a script: only the very one will do
        wanted = f"{code[:3] if code else language}_{second.title()}"
        return wanted if wanted in _rows() else None
    return _index().get(f"{language}-{(region or second).casefold()}", code)


def english_name(code: str) -> str:
    """A language's name for people, such as ``French`` or ``Acehnese (Arabic script)``.

    Args:
        code: of FLORES-200; one that NLLB-200 does not know is its own name.
    """
    if code not in _rows():
        return code
    name, script = _rows()[code][1][0], code[4:]
    if script in ("Hans", "Hant") and name == "Chinese":
        return f"{name} ({SCRIPTS[script]})"
    several = sum(other.startswith(code[:4]) for other in _rows()) > 1
    return f"{name} ({SCRIPTS[script]} script)" if several and script in SCRIPTS else name


def short_code(code: str) -> str:
    """The ISO 639-1 code of a FLORES-200 code, or its ISO 639-3 code where there is none."""
    return _rows().get(code, ("", []))[0] or code[:3]


def script_of(code: str) -> str:
    """The ISO 15924 code of the script, such as ``Latn``."""
    return code[4:]
