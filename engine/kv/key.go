package kv

import (
	"crypto/sha256"
	"encoding/binary"
)

// Key names the contents of a full block: SHA-256 over the key of the block
// before it and the block's own tokens, so it covers all tokens from the first
// of the sequence on, and at the very front a salt. Two blocks have the same key
// only if they have the same bits. What else could decide them does not: a row's
// arithmetic is the same for a prompt's and a generated token, and alone or in
// any company, so neither the tokens' roles nor the steps in which they were
// computed are part of the key.
type Key [sha256.Size]byte

// Root is the key before a sequence's first block. The parts of the salt keep
// apart what must not be shared: models, whose blocks have other contents, and
// tenants, who must not learn from a step's duration what others have asked.
func Root(salt ...string) Key {
	h := sha256.New()
	var length [8]byte
	for _, s := range salt {
		// With its length, so that ("a", "bc") is not ("ab", "c").
		binary.LittleEndian.PutUint64(length[:], uint64(len(s)))
		h.Write(length[:])
		h.Write([]byte(s))
	}
	var k Key
	h.Sum(k[:0])
	return k
}

// hashedTokens is how many tokens of a block are hashed without memory of their
// own.
const hashedTokens = 64

// Next is the key of the block of tokens that follows the block of key k.
func (k Key) Next(tokens []int32) Key {
	var room [len(k) + 4*hashedTokens]byte
	b := append(room[:0], k[:]...)
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	return sha256.Sum256(b)
}
