"""Names, streets and telephone ranges that the invented buyers of generate.py are put together from.

A name in another script carries its Latin spelling after `=`, for the e-mail address.
"""

# Telephone numbers that nobody can have. Each entry: (first part, digits to add, source).
PHONES = {
    "gb": ("+44 7700 900", 3, "Ofcom, Telephone numbers for use in TV and radio drama programmes: 07700 900000-900999"),
    "us": ("+1 202 555 01", 2, "North American Numbering Plan, 555 line numbers: 555-0100 to 555-0199 are fictitious"),
    "ie": ("+353 20 91", 5, "ComReg, National Numbering Plan: 020 91X XXXX for drama"),
    "fr": ("+33 6 39 98 ", 4, "Arcep, plan national de numérotation: 06 39 98 XX XX for audiovisual works"),
    "de": ("+49 30 23125 ", 3, "Bundesnetzagentur, Mitteilung 148/2021, drama numbers: (0)30 23125 000-999"),
    "de-muc": ("+49 89 99998 ", 3, "the same: (0)89 99998 000-999"),
    "se": ("+46 8 465 004 ", 2, "Post- och telestyrelsen, numbers for books and films: 08-465 004 00-99"),
}
# Where we know of no reserved range in the buyer's country, the buyer has a British number.
ELSEWHERE = "gb"


class Language:
    """What one part of the buyers has in common."""

    def __init__(self, weight, phones, currency, address, given, family, streets, towns, family_first=False, joint=" "):
        self.weight = weight
        self.phones = phones
        self.currency = currency
        self.address = address  # with {street}, {number}, {code} (five digits) and {town}
        self.given = given.split()
        self.family = [name.strip() for name in family.split(",")]
        self.streets = [street.strip() for street in streets.split(",")]
        self.towns = [town.strip() for town in towns.split(",")]
        self.family_first = family_first
        self.joint = joint


_WEST = "{street} {number}, {code} {town}"

LANGUAGES = {
    "en": Language(
        22, ["gb", "gb", "us", "ie"], "GBP", "{number} {street}, {town}",
        "Amelia Oliver Isla Harry Freya Callum Maeve Declan Imogen Rhys Tabitha Owen Niamh Dylan Poppy Ewan",
        "Ashworth, O'Connell, Pemberton, Fairweather, Mac Giolla, Whitlock, O’Dowd, Hargreaves, St. John, Llewellyn, "
        "Smith-Okafor, Tremayne",
        "Lantern Street, Curtain Road, Stage Lane, Ticket Row, Balcony Mews", "Leeds, Bristol, Cardiff, Galway, Norwich",
    ),
    "es": Language(
        14, [ELSEWHERE], "EUR", "Calle {street} {number}, {code} {town}",
        "Lucía Martín Iñaki Begoña Álvaro Ximena Núria Andrés Rocío Íñigo María_José Joaquín",
        "Núñez Ibáñez, Peña y Lillo, García de la Vega, Ordóñez, Zubizarreta, Muñoz, De los Ríos, Güell, Ferrer i Soler",
        "del Telón, de la Platea, del Aplauso, de las Candilejas", "Madrid, Sevilla, Gijón, A Coruña, Lleida",
    ),
    "nl": Language(
        9, [ELSEWHERE], "EUR", "{street} {number}, {code} {town}",
        "Daan Sanne Joris Fleur Pieter-Bas Noor Thijs Maartje Renée Jurriën",
        "van der Meer, 't Hooft, de Groot, van 't Hoff, IJzerman, Op den Akker, Ter Horst, den Ouden, in 't Veld",
        "Toneellaan, Kaartjesplein, Coulissenweg, Applausstraat", "Utrecht, Groningen, 's-Hertogenbosch, IJmuiden",
    ),
    "it": Language(
        8, [ELSEWHERE], "EUR", "Via {street} {number}, {code} {town}",
        "Giulia Niccolò Chiara Lorenzo Mattia Bianca Desirée Ottavia Noè",
        "D'Angelo, De Santis, Dell'Acqua, Rossetti, Sforza, Lo Cascio, Nicolò, Bianchi",
        "del Sipario, della Platea, del Loggione, dei Biglietti", "Torino, Forlì, Cefalù, L'Aquila",
    ),
    "de": Language(
        8, ["de", "de-muc"], "EUR", _WEST,
        "Jürgen Änne Björn Käthe Lennart Friederike Sören Mathilda Ömer",
        "Müller-Lüdenscheidt, Groß, von der Heide, Weiß, Schäfer, Zöllner, Übelacker, Freiherr von Tann",
        "Bühnenstraße, Vorhanggasse, Rangallee, Kartenweg", "Köln, Lübeck, München, Gießen",
    ),
    "fr": Language(
        8, ["fr"], "EUR", "{number} {street}, {code} {town}",
        "Éloïse François Zoé Anaïs Maël Gaël Cédric Noémie Jean-Loup",
        "L'Hôpital, de La Tour, D’Aubigné, Lefèvre, N'Diaye, Œuvrard, Saint-Exupère, Moreau",
        "rue du Rideau, allée des Coulisses, quai du Parterre, place du Rappel", "Nîmes, Besançon, L'Haÿ-les-Roses, Lyon",
    ),
    "da": Language(
        5, [ELSEWHERE], "DKK", _WEST,
        "Søren Åse Mads Freja Jørgen Ægir Øjvind Kirstine",
        "Sørensen, Kjær, Ågård, Højlund, Bjørn, Skovgaard", "Tæppegade, Scenevej, Billetstræde", "Aarhus, Køge, Ærøskøbing",
    ),
    "sv": Language(
        3, ["se"], "SEK", _WEST,
        "Åsa Göran Märta Örjan Linnéa Björn", "Åkesson, Öberg, Lindström, af Klercker, Sjöqvist",
        "Ridågatan, Scenvägen, Biljettgränd", "Malmö, Växjö, Östersund",
    ),
    "pl": Language(
        5, [ELSEWHERE], "PLN", "ul. {street} {number}, {code} {town}",
        "Łukasz Zofia Żaneta Grzegorz Świętopełk Bożena Małgorzata",
        "Brzęczyszczykiewicz, Wiśniewska, Łącki, Żółkiewska, Dąbrowski, Ślązak", "Kurtynowa, Biletowa, Oklaskowa",
        "Łódź, Kraków, Świnoujście",
    ),
    "pt": Language(
        3, [ELSEWHERE], "EUR", "{street}, {number}, {code} {town}",
        "João Conceição Inês Gonçalo Simão Íris", "Guimarães, d'Ávila, dos Santos, Brandão, Leitão",
        "Rua do Palco, Travessa da Plateia, Largo do Bilhete", "Évora, Setúbal, Guimarães",
    ),
    "tr": Language(
        2, [ELSEWHERE], "EUR", "{street} No: {number}, {code} {town}",
        "İpek Işık Çağrı Şule Oğuz Gülçin", "Yıldız, İnönü, Çelikoğlu, Şahin, Ağaoğlu", "Sahne Sokağı, Perde Caddesi",
        "İzmir, Muğla, Şanlıurfa",
    ),
    "ru": Language(
        3, [ELSEWHERE], "EUR", "ул. {street}, д. {number}, {code} {town}",
        "Юрий=yuriy Алёна=alyona Фёдор=fyodor Ольга=olga Семён=semyon",
        "Щербаков=shcherbakov, Ёлкина=yolkina, Подъячев=podyachev, Жуковская=zhukovskaya", "Занавесная, Билетная, Сценическая",
        "Рига, Нарва, Вильнюс",
    ),
    "el": Language(
        2, [ELSEWHERE], "EUR", _WEST,
        "Ελένη=eleni Γιώργος=giorgos Ίρις=iris Σπύρος=spyros",
        "Παπαδόπουλος=papadopoulos, Αλεξίου=alexiou, Μαΐστρος=maistros", "Οδός Σκηνής, Οδός Αυλαίας", "Αθήνα, Χανιά, Λάρισα",
    ),
    "ar": Language(
        3, [ELSEWHERE], "EUR", "{street} {number}، {code} {town}",
        "ليلى=layla يوسف=yusuf نور=nour عبدالله=abdullah آمنة=amina",
        "الحدّاد=alhaddad, بن سعيد=bensaid, القرطبي=alqurtubi, أبو زيد=abuzayd", "شارع الستارة, طريق المسرح", "الرباط, بيروت, تونس",
    ),
    "he": Language(
        2, [ELSEWHERE], "EUR", "{street} {number}, {code} {town}",
        "נועה=noa אֵיתָן=eitan שירה=shira יוֹנָתָן=yonatan", "כהן־לוי=cohenlevi, בן-דוד=bendavid, מזרחי=mizrahi",
        "רחוב המסך, רחוב הבמה", "חיפה, יפו",
    ),
    "ja": Language(
        2, [ELSEWHERE], "JPY", "〒{code} {town}{street}{number}",
        "さくら=sakura 蓮=ren 陽菜=hina ケンジ=kenji", "髙橋=takahashi, 﨑山=sakiyama, 渡邊=watanabe, 佐々木=sasaki", "舞台町, 幕前通り",
        "京都市, 札幌市", family_first=True,
    ),
    "zh": Language(
        2, [ELSEWHERE], "EUR", "{town}{street}{number}号 {code}",
        "伟=wei 芳=fang 秀英=xiuying 𠮷=ji", "王=wang, 欧阳=ouyang, 李=li, 诸葛=zhuge", "舞台路, 幕布街", "上海市, 成都市",
        family_first=True, joint="",
    ),
    "ko": Language(
        2, [ELSEWHERE], "EUR", "{town} {street} {number}, {code}",
        "민준=minjun 서연=seoyeon 하늘=haneul", "김=kim, 남궁=namgung, 이=lee", "무대로, 막길", "서울시, 부산시",
        family_first=True, joint="",
    ),
}

# Names that break systems. All of them are accepted.
STRANGE_NAMES = [
    "O'Brien",
    "Miles O’Shaughnessy-D'Arcy",
    "E\u0301loi\u0308se Dupre\u0301",  # decomposed
    "Éloïse Dupré",  # the same name, composed
    "\u1112\u1161\u11ab\u1100\u1165\u11af",  # Korean as separate jamo
    "Z\u0335\u0327a\u0334\u0321l\u0338\u0328g\u0336\u0322o\u0337",
    "مريم بنت\u200cالهدى",  # with a zero-width non-joiner
    "\u200fדוד John כהן\u200f",
    "\u202eesreveR",
    "李",
    "X",
    "Ж",
    "🎟️ Fan 🎉",
    "👩‍👩‍👧‍👦",
    "  Ann Lee  ",
    "\u00a0Bo Diddle\u00a0",
    "Zero\u200bWidth Space",
    # 200 characters
    "Anastasia " + "Bartholomea-Quillwright " * 7 + "Montgomerysson-Fieldes",
    "ßtraße GROẞ",
    "İpek Işık",
    "ﬁona ﬂynn",
    "ＦＵＬＬ　ＷＩＤＴＨ",
    "Null",
    "NaN",
    "undefined",
    "true",
    "0",
    "-",
    "'",
    "\\",
    "Quoted \"Q\" Name",
    "Surname, Given, Title",
    "Semi;colon|Pipe",
    "=HYPERLINK(\"https://example.com\")",
    "@SUM(A1:A9)",
    "'); DROP TABLE orders;--",
    "<script>alert('hi')</script>",
    "{{7*7}} ${7*7} %s%n",
    "../../etc/passwd",
    "name@example.com",
    "ﷺ",
    "ก็็็็",
    "\ufeffByte Order",
    "de la Cruz y Bustamante de los Monteros",
]
