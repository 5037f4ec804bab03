"""Words that the lookup policy knows: general vocabulary, made from no data set."""

from __future__ import annotations

__all__ = [
    "COLOURS",
    "COUNTRIES",
    "DEMONYMS",
    "GENRES",
    "MONTHS",
    "OCCUPATIONS",
    "OFFICES",
    "RELIGIONS",
    "SPORTS",
]

MONTHS = frozenset(
    (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    )
)

OCCUPATIONS = tuple(
    """
accountant; activist; actor; actress; admiral; agronomist; animator; anthropologist;
archaeologist; archbishop; architect; archivist; art collector; art critic; art dealer; art
director; art historian; artist; astronaut; astronomer; athlete; attorney; author; aviator;
bacteriologist; baker; ballerina; ballet dancer; banker; baritone; barrister; bass guitarist;
bassist; biochemist; biographer; biologist; bishop; blogger; bookseller; botanist; boxer;
brewer; broadcaster; businessman; businessperson; businesswoman; cardinal; cardiologist;
carpenter; cartographer; cartoonist; cellist; chef; chess player; chemist; chief executive
officer; choreographer; cinematographer; civil servant; clergyman; climatologist; clockmaker;
comedian; comics artist; comic book artist; composer; computer programmer; computer scientist;
conductor; costume designer; cricket umpire; cricketer; critic; cryptographer; curator; cyclist;
dancer; dentist; designer; diplomat; disc jockey; doctor; drummer; ecologist; economist; editor;
educator; electrical engineer; engineer; engraver; entomologist; entrepreneur; essayist;
ethnologist; explorer; fashion designer; fashion model; film critic; film director; film editor;
film producer; filmmaker; flautist; folklorist; footballer; furniture designer; gangster;
gardener; geneticist; geographer; geologist; geophysicist; goldsmith; golfer; graphic designer;
guitarist; gymnast; hairdresser; harpsichordist; herpetologist; historian; horse trainer;
illustrator; immunologist; impressionist; industrial designer; industrialist; interior designer;
inventor; investor; jazz musician; jeweller; jockey; journalist; judge; jurist; landscape
architect; landscape painter; lawyer; lexicographer; librarian; librettist; linguist; literary
critic; lithographer; lyricist; magician; makeup artist; manga artist; mathematician; merchant;
meteorologist; microbiologist; military officer; mineralogist; missionary; model; mountaineer;
musician; music critic; music producer; musicologist; mycologist; naturalist; naval officer;
neurologist; neuroscientist; novelist; nun; nurse; oceanographer; opera singer; organist;
ornithologist; painter; palaeontologist; paleontologist; pastor; pathologist; percussionist;
pharmacist; philanthropist; philologist; philosopher; photographer; photojournalist; physician;
physicist; physiologist; pianist; pilot; pirate; playwright; poet; police officer; political
scientist; politician; pornographic actor; pornographic actress; potter; presenter; priest;
printmaker; prison officer; producer; production designer; professor; programmer; prosecutor;
psychiatrist; psychoanalyst; psychologist; publicist; publisher; puppeteer; rabbi; racing
driver; radio host; radio personality; radio presenter; rapper; record producer; restaurateur;
revolutionary; sailor; saxophonist; scholar; science fiction writer; screenwriter; sculptor; sea
captain; seismologist; set designer; sheriff; shipbuilder; singer; singer-songwriter;
skateboarder; social worker; sociologist; soldier; solicitor; songwriter; soprano; sound
engineer; spy; stage actor; stage director; stand-up comedian; statistician; stunt performer;
stuntman; surgeon; surveyor; talent agent; talent manager; teacher; telescope maker; television
director; television host; television presenter; television producer; tenor; theatre director;
theatrical director; theologian; trade unionist; translator; troubadour; trumpeter; typographer;
urban planner; ventriloquist; veterinarian; video game designer; violinist; virologist; visual
artist; voice actor; voice actress; watchmaker; weaver; woodcarver; wrestler; writer; youtuber;
zoologist
""".replace("\n", " ")
    .strip()
    .split("; ")
)

OFFICES = (
    "member of parliament",
    "member of the",
    "congressman",
    "congresswoman",
    "councillor",
    "governor",
    "mayor",
    "minister",
    "prime minister",
    "president of",
    "representative",
    "senator",
    "statesman",
)
"""Who holds one of these, and has no other occupation named, is a politician."""

GENRES = tuple(
    """
action film; adventure film; adventure game; alternative metal; alternative rock; animated film;
ambient; art film; art rock; autobiography; ballad; bebop; biographical film; biography; black
metal; bluegrass; blues; blues rock; bossa nova; children's literature; comedy; comedy drama;
comedy film; comedy-drama; coming-of-age; country; country music; crime film; crime fiction;
cyberpunk; dance; dance-pop; death metal; detective fiction; disco; documentary; documentary
film; doom metal; drama; drama film; dream pop; drum and bass; dystopian; electronic; electronic
music; electronica; electropop; epic; erotic thriller; experimental; fantasy; fantasy
literature; fiction; film noir; first-person shooter; folk; folk music; folk rock; funk; fusion;
garage rock; glam metal; glam rock; gospel; gothic rock; grunge; hard rock; hardcore punk; heavy
metal; hip hop; historical fiction; historical novel; horror; horror film; house; house music;
indie folk; indie pop; indie rock; industrial; industrial metal; jazz; jazz fusion; melodrama;
memoir; metalcore; martial arts film; musical; musical comedy; musical film; mystery; mystery
film; new wave; noise rock; novel; nu metal; opera; pop; pop music; pop punk; pop rock;
post-hardcore; post-punk; post-rock; power metal; power pop; progressive metal; progressive
rock; psychedelic rock; psychological thriller; punk; punk rock; puzzle; r&b; racing game; rap;
reality television; reggae; rhythm and blues; rock; rock and roll; rock music; role-playing
game; romance; romance film; romantic comedy; romantic drama; satire; science fiction; science
fiction film; shooter; short story; silent film; sitcom; ska; slapstick; slasher; slasher film;
smooth jazz; soap opera; soft rock; soul; soul music; southern rock; spy film; swing; symphonic
metal; synth-pop; synthpop; techno; teen film; telenovela; thrash metal; thriller; thriller
film; tragedy; trance; trip hop; war film; western; western film; world music; young adult
fiction
""".replace("\n", " ")
    .strip()
    .split("; ")
)

SPORTS = {
    "american football": (
        "american football",
        "national football league",
        "quarterback",
        "linebacker",
    ),
    "association football": (
        "association football",
        "footballer",
        "soccer",
        "football club",
        "goalkeeper",
    ),
    "australian rules football": ("australian rules",),
    "badminton": ("badminton",),
    "baseball": ("baseball",),
    "basketball": ("basketball",),
    "bobsleigh": ("bobsleigh", "bobsledder"),
    "boxing": ("boxer", "boxing"),
    "cricket": ("cricketer", "cricket"),
    "curling": ("curler", "curling"),
    "cycling": ("cyclist", "road bicycle", "cycling"),
    "field hockey": ("field hockey",),
    "golf": ("golfer", "golf"),
    "handball": ("handball",),
    "ice hockey": ("ice hockey", "national hockey league"),
    "judo": ("judoka", "judo"),
    "rugby league": ("rugby league",),
    "rugby union": ("rugby union", "rugby"),
    "snooker": ("snooker",),
    "swimming": ("swimmer", "swimming"),
    "table tennis": ("table tennis",),
    "tennis": ("tennis",),
    "volleyball": ("volleyball",),
    "water polo": ("water polo",),
    "wrestling": ("wrestler", "wrestling"),
    "athletics": ("sprinter", "hurdler", "long jumper", "athletics", "runner"),
}
"""Sport to the words that betray it."""

RELIGIONS = {
    "Catholicism": ("roman catholic", "catholic", "jesuit", "cardinal", "pope"),
    "Eastern Orthodox Church": ("eastern orthodox", "orthodox"),
    "Anglicanism": ("anglican", "church of england"),
    "Protestantism": (
        "protestant",
        "lutheran",
        "calvinist",
        "baptist",
        "methodist",
        "presbyterian",
    ),
    "Islam": ("islamic", "islam", "muslim", "sunni", "shia", "sufi", "caliph", "imam"),
    "Judaism": ("jewish", "judaism", "rabbi"),
    "Hinduism": ("hindu", "hinduism"),
    "Buddhism": ("buddhist", "buddhism"),
    "Sikhism": ("sikh",),
    "Jainism": ("jain",),
    "Christianity": ("christian", "bishop", "church", "saint"),
}
"""Religion to the words that betray it, the particular before the general."""

COLOURS = (
    "black",
    "blue",
    "brown",
    "crimson",
    "gold",
    "golden",
    "gray",
    "green",
    "grey",
    "ivory",
    "maroon",
    "orange",
    "pink",
    "purple",
    "red",
    "silver",
    "turquoise",
    "violet",
    "white",
    "yellow",
)

DEMONYMS = {
    "American": "United States",
    "Argentine": "Argentina",
    "Australian": "Australia",
    "Austrian": "Austria",
    "Belgian": "Belgium",
    "Brazilian": "Brazil",
    "British": "United Kingdom",
    "Bulgarian": "Bulgaria",
    "Canadian": "Canada",
    "Chilean": "Chile",
    "Chinese": "China",
    "Czech": "Czech Republic",
    "Danish": "Denmark",
    "Dutch": "Netherlands",
    "English": "England",
    "Estonian": "Estonia",
    "Finnish": "Finland",
    "French": "France",
    "German": "Germany",
    "Greek": "Greece",
    "Hungarian": "Hungary",
    "Icelandic": "Iceland",
    "Indian": "India",
    "Iranian": "Iran",
    "Irish": "Ireland",
    "Israeli": "Israel",
    "Italian": "Italy",
    "Japanese": "Japan",
    "Mexican": "Mexico",
    "Norwegian": "Norway",
    "Polish": "Poland",
    "Portuguese": "Portugal",
    "Romanian": "Romania",
    "Russian": "Russia",
    "Scottish": "Scotland",
    "Serbian": "Serbia",
    "Spanish": "Spain",
    "Swedish": "Sweden",
    "Swiss": "Switzerland",
    "Turkish": "Turkey",
    "Ukrainian": "Ukraine",
    "Welsh": "Wales",
}

COUNTRIES = tuple(
    """
Afghanistan; Albania; Algeria; Andorra; Angola; Argentina; Armenia; Australia; Austria;
Azerbaijan; Bahamas; Bahrain; Bangladesh; Barbados; Belarus; Belgium; Belize; Benin; Bhutan;
Bolivia; Bosnia and Herzegovina; Botswana; Brazil; Brunei; Bulgaria; Burkina Faso; Burundi;
Cambodia; Cameroon; Canada; Cape Verde; Central African Republic; Chad; Chile; China; Colombia;
Comoros; Costa Rica; Croatia; Cuba; Cyprus; Czech Republic; Democratic Republic of the Congo;
Denmark; Djibouti; Dominica; Dominican Republic; East Timor; Ecuador; Egypt; El Salvador;
Equatorial Guinea; Eritrea; Estonia; Eswatini; Ethiopia; Fiji; Finland; France; Gabon; Gambia;
Georgia; Germany; Ghana; Greece; Grenada; Guatemala; Guinea; Guinea-Bissau; Guyana; Haiti;
Honduras; Hungary; Iceland; India; Indonesia; Iran; Iraq; Ireland; Israel; Italy; Ivory Coast;
Jamaica; Japan; Jordan; Kazakhstan; Kenya; Kiribati; Kosovo; Kuwait; Kyrgyzstan; Laos; Latvia;
Lebanon; Lesotho; Liberia; Libya; Liechtenstein; Lithuania; Luxembourg; Madagascar; Malawi;
Malaysia; Maldives; Mali; Malta; Marshall Islands; Mauritania; Mauritius; Mexico; Micronesia;
Moldova; Monaco; Mongolia; Montenegro; Morocco; Mozambique; Myanmar; Namibia; Nauru; Nepal;
Netherlands; New Zealand; Nicaragua; Niger; Nigeria; North Korea; North Macedonia; Norway; Oman;
Pakistan; Palau; Panama; Papua New Guinea; Paraguay; Peru; Philippines; Poland; Portugal; Qatar;
Romania; Russia; Rwanda; Samoa; San Marino; Saudi Arabia; Senegal; Serbia; Seychelles; Sierra
Leone; Singapore; Slovakia; Slovenia; Solomon Islands; Somalia; South Africa; South Korea; South
Sudan; Spain; Sri Lanka; Sudan; Suriname; Sweden; Switzerland; Syria; Taiwan; Tajikistan;
Tanzania; Thailand; Togo; Tonga; Trinidad and Tobago; Tunisia; Turkey; Turkmenistan; Tuvalu;
Uganda; Ukraine; United Arab Emirates; United Kingdom; United States; Uruguay; Uzbekistan;
Vanuatu; Vatican City; Venezuela; Vietnam; Yemen; Zambia; Zimbabwe
""".replace("\n", " ")
    .strip()
    .split("; ")
)
