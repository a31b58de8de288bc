package tokenizer

import "unicode/utf8"

// The byte-level alphabet of GPT-2 (Radford et al., 2019, encoder.py) writes
// each byte as one printable character, so that any bytes can be a token's
// text: printable Latin-1 bytes stand for themselves, the 68 others follow
// from U+0100 on in rising order.
const alphabetEnd = 0x100 + 68

// alphabet maps characters below alphabetEnd to bytes, -1 where there is none.
var alphabet = func() (a [alphabetEnd]int16) {
	for i := range a {
		a[i] = -1
	}
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if b < 0x21 || b == 0x7f || b > 0x7f && b < 0xa1 || b == 0xad {
			r = next
			next++
		}
		a[r] = int16(b)
	}
	return a
}()

// letters is the inverse of alphabet: the UTF-8 of each byte's character.
var letters = func() (l [256]string) {
	for r, b := range alphabet {
		if b >= 0 {
			l[b] = string(rune(r))
		}
	}
	return l
}()

// appendBytes appends the bytes that text stands for. A text with a character
// outside the alphabet stands for itself, all of it.
func appendBytes(dst []byte, text string) []byte {
	start := len(dst)
	for i := 0; i < len(text); {
		r, size := rune(text[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(text[i:])
		}
		// An invalid byte decodes to U+FFFD, which the alphabet lacks.
		if r >= alphabetEnd || alphabet[r] < 0 {
			return append(dst[:start], text...)
		}
		dst = append(dst, byte(alphabet[r]))
		i += size
	}
	return dst
}

// appendLetters appends the alphabet's text for raw bytes.
func appendLetters(dst, raw []byte) []byte {
	for _, b := range raw {
		dst = append(dst, letters[b]...)
	}
	return dst
}
