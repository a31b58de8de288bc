"""The texts on which tokenizers are compared: (name, bytes) pairs, written for this purpose or generated from a seed."""

import random
import unicodedata

LANGUAGES = {
    "en": [
        "Hello, world!",
        "The quick brown fox jumps over the lazy dog.",
        "An old pond; a frog leaps in. The sound of water.",
        "She said: \"It's fine,\" but it wasn't; we'd've known if they'd told us.",
        "Read the minutes of the 3rd meeting (1998-04-17), pp. 12–15, and reply by 5pm.",
        "supercalifragilisticexpialidocious antidisestablishmentarianism",
        "A naïve café owner's résumé mentions the façade — and a coöperative role.",
    ],
    "de": [
        "Grüß Gott! Die Straße führt über die Brücke nach Öhringen.",
        "Donaudampfschifffahrtsgesellschaftskapitänsmütze",
        "„Falsches Üben von Xylophonmusik quält jeden größeren Zwerg“, sagte er.",
        "Im Jahr 2024 kostete das Brötchen 0,45 €.",
        "GROẞE BUCHSTABEN UND ſ, ß.",
    ],
    "fr": [
        "Où est passé le garçon ? Il l’a vu à l'école, n'est-ce pas !",
        "Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis.",
        "L'été, j'ai mangé des crêpes « suzette » à Besançon.",
        "Aujourd'hui, c'est la fête ; qu'en dis-tu ?",
    ],
    "es": ["¿Dónde está el niño? ¡Qué sé yo!", "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia."],
    "pt": ["À noite, vovô Kowalsky vê o ímã cair no pé do pinguim.", "Não há informações disponíveis."],
    "it": ["Perché l'acqua è così fredda? Chissà."],
    "pl": ["Zażółć gęślą jaźń.", "W Szczebrzeszynie chrząszcz brzmi w trzcinie."],
    "cs": ["Příliš žluťoučký kůň úpěl ďábelské ódy."],
    "tr": ["Pijamalı hasta yağız şoföre çabucak güvendi.", "İstanbul'da ılık IŞIK, iğne."],
    "vi": ["Tiếng Việt có dấu: ngã, hỏi, nặng, sắc, huyền."],
    "ru": [
        "Съешь же ещё этих мягких французских булок, да выпей чаю.",
        "Привет, мир! Как дела? — Хорошо.",
        "В 1961 году Юрий Гагарин полетел в космос.",
        "ПРОПИСНЫЕ и строчные буквы: Ёё Йй.",
    ],
    "uk": ["Чуєш їх, доцю, га? Кумедна ж ти, прощайся без ґольфів!"],
    "el": ["Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.", "Καλημέρα κόσμε, τι κάνεις;", "ΌΔΥΣΣΕΥΣ, ὁ πολύτροπος ἀνήρ."],
    "ar": [
        "مرحبا بالعالم",
        "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق",
        "السَّلَامُ عَلَيْكُمْ وَرَحْمَةُ اللَّهِ",
        "العدد ١٢٣٤٥ في سنة ٢٠٢٤، ثم 99٪.",
    ],
    "fa": ["می‌خواهم کتاب‌ها را بخوانم؛ ۱۲۳ صفحه."],
    "he": ["שלום עולם, מה שלומך?", "דג סקרן שט בים מאוכזב ולפתע מצא חברה", "בְּרֵאשִׁית בָּרָא אֱלֹהִים"],
    "hi": ["नमस्ते दुनिया, आप कैसे हैं?", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण", "वर्ष २०२४ में १५ अगस्त।"],
    "bn": ["আমার সোনার বাংলা, আমি তোমায় ভালোবাসি।"],
    "ta": ["யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்"],
    "te": ["దేశ భాషలందు తెలుగు లెస్స"],
    "th": ["สวัสดีชาวโลก", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน", "ปี ๒๕๖๗ ราคา 100 บาท"],
    "km": ["សួស្តីពិភពលោក"],
    "my": ["မင်္ဂလာပါ ကမ္ဘာလောက"],
    "bo": ["བོད་སྐད་ཡིག"],
    "am": ["ሰላም ልዑል"],
    "ka": ["გამარჯობა მსოფლიო", "ᲒᲐᲛᲐᲠᲯᲝᲑᲐ"],
    "hy": ["Բարեւ աշխարհ"],
    "zh": [
        "你好，世界！",
        "古池や蛙飛びこむ水の音，是松尾芭蕉的名句。",
        "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
        "2024年12月31日，气温为-3.5℃，共有１２３个人。",
        "繁體中文：龍、龜、鬱、𠮷野家、㐂。",
        "混排English和中文,没有空格1a2b。",
    ],
    "ja": [
        "古池や蛙飛びこむ水の音",
        "いろはにほへと ちりぬるを わかよたれそ つねならむ",
        "カタカナ、ひらがな、漢字、ｶﾅ、そして「引用」。",
        "が（合成）とが（分解）は同じに見える。",
        "東京都の人口は約１，４００万人です。",
    ],
    "ko": ["안녕하세요 세계", "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.", "한글(분해): 한글", "2024년 3월"],
}

CODE = [
    "def fib(n: int) -> int:\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "class A:\n\t'''doc'''\n\tx = {'a': 1, \"b\": [None, True]}\n\n\n\tdef __init__(self, *args, **kw): ...\n",
    "lambda x: x**2 if x else -x  # comment\n    \n        ",
    "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Printf(\"%d\\n\", i)\n\t}\n}\n",
    "if err != nil {\n\treturn nil, fmt.Errorf(\"load %q: %w\", name, err)\n}",
    "ch := make(chan<- struct{}, 1<<10); select { case ch <- struct{}{}: default: }",
    "#include <stdio.h>\n\nint main(int argc, char **argv) {\n    printf(\"%s\\n\", argv[0]);\n    return 0;\n}\n",
    "template <typename T, size_t N>\nconstexpr auto operator<=>(const std::array<T, N>& a, decltype(a) b) { return a == b; }",
    "x = a->b[i++] & ~0xFFu | (uint32_t)1 << 31; /* comment */ // another\r\n",
    "fn main() -> Result<(), Box<dyn Error>> {\n    let v: Vec<u8> = vec![0; 16];\n    println!(\"{:?}\", &v[..]);\n    Ok(())\n}\n",
    "impl<'a, T: 'a + ?Sized> Deref for Guard<'a, T> { type Target = T; fn deref(&self) -> &T { unsafe { &*self.p } } }",
    "const f = async ({ a, b = 3 }) => { await fetch(`/api/${a}?b=${b}`); return a ?? b; };",
    "<div class=\"x\" data-id='42'>\n  <p>Hi &amp; bye&nbsp;!</p>\n</div>\n<!-- note -->",
    "SELECT u.id, COUNT(*) AS n FROM users u LEFT JOIN orders o ON o.uid = u.id WHERE u.name LIKE 'A%' GROUP BY 1;",
    "#!/bin/sh\nset -eu\nfor f in *.txt; do\n\techo \"${f%.txt}\" | sed -e 's/a/b/g' >> out.log 2>&1\ndone\n",
    "{\"a\": [1, 2.5e-3, -0.0], \"b\": {\"c\": null, \"d\": \"\\u00e9\\n\"}}",
    "key: value\nlist:\n  - one\n  - two # comment\nmulti: |\n  text\n   more\n",
    "public static void main(String[] args) throws IOException { System.out.println(args.length); }",
    "\\begin{equation}\n  \\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}\n\\end{equation}",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ℕ ⊆ ℕ₀ ⊂ ℤ ⊂ ℚ ⊂ ℝ ⊂ ℂ",
    "| a | b |\n|---|:-:|\n| 1 | **2** |\n\n> quote\n\n```go\nx := 1\n```\n",
    "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n context\n",
    "      deep indent\n                    deeper\n\t\t\t\ttabs\n \t mixed",
    "=====-----_____*****#####/////\\\\\\\\\\",
    "a=b+c-d*e/f%g^h&i|j~k!l?m:n;o,p.q<r>s@t#u$v`w'x\"y",
    "(((([[[[{{{{<<<<>>>>}}}}]]]]))))",
    "foo_bar fooBar FooBar FOO_BAR foo-bar foo.bar foo::bar foo/bar __init__ _x x_",
    "0x1F 0b1010 0o17 1e10 1_000_000 3.14159 .5 5. 1/2 1,000,000.00 -7 +7",
]

NUMBERS = [
    "0", "7", "42", "123", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890123456789012345",
    " 1", "  12", "a1b22c333d4444", "1a", "3.14", "1,234,567.89", "2024-11-23T08:30:59.123+01:00", "192.168.0.1:8080",
    "+49 (0)89 1234-5678", "½ ¾ ⅓ ² ³ ¹⁰ ₁₂ ① ⑳ Ⅷ ⅻ ㊿ ㈠", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "𝟎𝟏𝟐𝟛𝟜𝟝", "一二三四五六七八九十百千万",
    "𐄇𐄈 𐅀 𒐀 ꘠꘡", "1st 2nd 3rd 4th 100% $9.99 €5 £3 ¥100 #1 №5",
]

CONTRACTIONS = [
    "I'm you're he's we've they'll I'd don't", "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T", "'s 't 're 've 'm 'll 'd", "'S 'T 'RE 'VE 'M 'LL 'D",
    "'Re 'rE 'vE 'lL 'Ll", "''s '''t 's's 'll'll", "x'sx x'tx x'rex x'lly x'mm x'dd", "x' s x ' t", "l'l d'r 'st 'tis 'twas o'clock rock'n'roll",
    "I’m you’re don’t", "'ſ 'K it'ſ", "'\u0130 '\u0131 'ß", "1's 2'LL '1 '!s", "don't\n'll\t'S",
]

WHITESPACE = [
    "", " ", "  ", "   ", "    ", "     ", " " * 7, " " * 8, " " * 15, " " * 16, " " * 17, " " * 31, " " * 64, " " * 100,
    "\n", "\n\n", "\n\n\n", "\n" * 10, "\r\n", "\r\n\r\n", "\r", "\r\r", "\n\r", "\t", "\t\t", "\t\t\t\t", "\t\n", "\n\t", " \n", "\n ", " \n ", "  \n\n  ",
    "a b", "a  b", "a   b", "a    b", " a", "  a", "   a", "a ", "a  ", "a   ", "a \n", "a\n ", "a \n b", "a  \n  b", "a\n\n\nb", "a \r\n b", "a\r\nb", "a\rb",
    "a\tb", "a\t\tb", "a \tb", "a\t b", "\ta", " \ta", "\t a", "a\x0bb\x0cc", "\x0b\x0c", "a\u00a0b", "a\u00a0\u00a0b", "\u00a0", " \u00a0 ", "\u00a0a", "a\u2028b", "a\u2029b\u2029",
    "\u2028\u2028 x", "a\u0085b", "\u0085", " \u0085 \u0085x", "a\u3000b\u3000\u3000c", "\u2000\u2001\u2002\u2003\u2009\u200a", "a\u2009b", "\u1680\u202f\u205fx", "a\u200bb\u200b", "\ufeffhello", "a\ufeffb", "a\u180eb",
    "\x1c\x1d\x1e\x1f", "a\x1cb \x1fc", "1 \n 2", "! \n !", "!\n\n!", "! \r\n\r\n", "...\n\n", " ...\n", "  ...  \n  ", "x;\n\n\n    y", ")\r\n\r\n\t}", "\n  \n   \n    \n", "a\n \n  \nb  \n\n   c",
    "end  \u00a0\n \u3000 mix \t\r\n\v\f ok", "    x\n        y\n    z", "\u3000\n\u3000a", "a \u00a0b", "a\u00a0 b", " \u3000b",
]

EMOJI = [
    "😀", "😀😃😄", "Hi 😀!", "👨‍👩‍👧‍👦", "🏳️‍🌈 🏴‍☠️", "🇩🇪🇫🇷🇯🇵", "👍🏽👍🏿", "❤️❤", "1️⃣2️⃣#️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🫠🫡🫨", "a😀b", " 😀 ", "🤷‍♀️ ¯\\_(ツ)_/¯", "☀︎☀️", "🧑🏾‍🚀🚀🌕",
    "👩‍❤️‍💋‍👨", "🀄🃏🎴", "(╯°□°）╯︵ ┻━┻",
]

COMBINING = [
    "e\u0301", "cafe\u0301", "\u0301", " \u0301a", "a\u0308o\u0308u\u0308", "n\u0303 \u00f1", "A\u030a \u00c5 \u212b", "Z\u0351\u036b\u0343a\u0323\u0331l\u0360g\u0321o\u0322", "\u1100\u1161\u11a8 \uac01",
    "q\u0307\u0323 q\u0323\u0307", "\u0958 \u0915\u093c", "ﬁ ﬂ ﬃ Ǆ ǅ ǆ ĳ", "\u2126 \u03a9 \u2160", "\uf900 \u8c48", "が が", "a\u0315\u0300\u05ae\u0062", "x\u20dd y\u20e3", "\u0e33 \u0e4d\u0e32", "क्‍ष क्षि", "\u064a\u0651\u064e", "\u2adc \U0001d15e",
]

URLS = [
    "https://example.com/path/to/page.html?query=1&lang=en#frag", "http://user:pa%20ss@[::1]:8080/", "mailto:someone+tag@example.org", "www.example.co.uk", "ftp://files.example.net/a%2Fb",
    "C:\\Windows\\System32\\drivers\\etc", "/usr/local/bin/../lib64", "data:text/plain;base64,SGVsbG8=", "git@example.com:team/repo.git", "日本語.example/パス?キー=値",
    "550e8400-e29b-41d4-a716-446655440000", "d41d8cd98f00b204e9800998ecf8427e", "SGVsbG8gV29ybGQhIFRoaXMgaXMgYmFzZTY0Lg==",
]

ODD = [
    "\x00", "a\x00b", "\x01\x02\x03\x7f", "\x1b[31mred\x1b[0m", "\x08\x07", "\ufffd", "a\ufffdb \ufffd\ufffd", "\ue000\uf8ff", "\U000f0000\U0010fffd", "\uffff\ufffe", "\U0010ffff", "\u0378\u0379", "\u200d\u200c\u200e\u200f",
    "\u202eright to left\u202c", "\u2066x\u2069", "\u00ad soft\u00adhyphen", "\u0600\u06dd", "\ufe0f\ufe0e", "𝒜𝓁𝓅𝒽𝒶 𝔣𝔯𝔞𝔨𝔱𝔲𝔯 𝕕𝕠𝕦𝕓𝕝𝕖", "Ⓒⓘⓡⓒⓛⓔ ｆｕｌｌ ｗｉｄｔｈ ＡＢＣ！", "ʇxəʇ uʍop ǝpısdn", "ᏣᎳᎩ ꭰꭱ", "𓀀𓂀𓃰", "𒀭𒂗", "𐎀𐎁", "ᚠᚢᚦᚨᚱᚲ", "⠓⠑⠇⠇⠕", "†‡§¶•…‰′″‹›«»", "←↑→↓⇒⇔∞≈≠≤≥", "█▓▒░ ┌─┐│└┘", "♠♥♦♣ ♔♕♖", "␀␛␤", "ªº µ", "ʰʲˢ ˈa ːb", "々〆〇ヶ", "ㄅㄆㄇ", "꧁꧂", "\u037e \u0387", "a\u034fb", "\u115f\u1160\u3164\uffa0",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababababababababab", "^" * 40, "_" * 70, "-" * 90, "=" * 33, "." * 50, "!" * 19, "\u3042" * 40, "\u0301" * 20, "的" * 50, "hahahahahahaha", "1" * 50, "\\n\\t\\r\\\\", "Ġ Ċ ĉ Ā ġ", "▁a▁b", "[PAD151646] [UNK] <unk> <s>",
]

# Texts with the special tokens of one of the models in them; %s is replaced by such a token.
SPECIAL = [
    "%s", "%s%s", "a%sb", " %s ", "%s\n", "\n%s", "Hello%s", "%sHello", "%s Hello %s\n\nworld", "<%s>", "%s's", "x %s 1%s2", "  %s  %s  ", "%s\r\n\t%s", "é%s\u0301", "日本%s語", "<|%s|>", "<|im_%s", "%s|>",
]

INVALID = [
    "ff", "61ff62", "c3", "61c3", "c328", "e282", "e28261", "f09f98", "f09f9861", "80", "8080", "c080", "eda080", "eda080edb080", "f4908080", "f8888080", "fe", "fffe", "c3a9c3", "20ff20", "e4bda0e5", "0aff0a", "61f062", "efbfbdff",
    "3132ff33", "27ff73", "c2", "c2a0c2", "f0808080", "e08080",
]


def generated():
    """Random texts: assigned code points of all planes, neighbourhoods of scripts, words glued by odd characters."""
    rng = random.Random(20261123)
    assigned = [c for c in map(chr, range(0x20, 0x32000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    by_kind = {}
    for c in assigned:
        by_kind.setdefault(unicodedata.category(c), []).append(c)
    for i in range(12):
        yield f"random-unicode-{i}", "".join(rng.choices(assigned, k=24))
    kinds = sorted(by_kind)
    for i in range(14):
        yield f"random-categories-{i}", "".join(rng.choice(by_kind[rng.choice(kinds)]) for _ in range(30))
    ascii_text = "".join(map(chr, range(0x20, 0x7F)))
    for i in range(8):
        yield f"random-ascii-{i}", "".join(rng.choices(ascii_text, k=60))
    glue = [" ", "  ", "\n", "\t", "\r\n", "'", "'s", "'LL", "-", ".", "\u00a0", "\u3000", "1", "22", "!", "?!", "_", "\u0301", "é", "ß", "я", "中", "😀", "\u200d"]
    words = ["the", "Token", "GPU", "haiku", "größe", "слово", "文字", "x", "I", "don", "re"]
    for i in range(24):
        yield f"random-mix-{i}", "".join(rng.choice(rng.choice([glue, words])) for _ in range(30))


def texts():
    """All valid texts as (name, str)."""
    for lang, items in LANGUAGES.items():
        for i, text in enumerate(items):
            yield f"{lang}-{i}", text
    for group, items in [("code", CODE), ("numbers", NUMBERS), ("contractions", CONTRACTIONS), ("whitespace", WHITESPACE), ("emoji", EMOJI),
                         ("combining", COMBINING), ("urls", URLS), ("odd", ODD)]:
        for i, text in enumerate(items):
            yield f"{group}-{i}", text
    yield from generated()
    everything = [text for items in LANGUAGES.values() for text in items]
    yield "long-languages", "\n".join(everything)
    yield "long-code", "\n".join(CODE)


def special_texts(tokens):
    """Texts with the given special tokens put in, as (name, str)."""
    rng = random.Random(7)
    for i, pattern in enumerate(SPECIAL):
        for _ in range(pattern.count("%s")):
            pattern = pattern.replace("%s", rng.choice(tokens), 1)
        yield f"special-{i}", pattern


def invalid():
    """Byte strings that are not UTF-8, as (name, bytes)."""
    for i, h in enumerate(INVALID):
        yield f"invalid-{i}", bytes.fromhex(h)
