package server

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kigo/engine"
)

// markingCodec is gRPC's own codec, but for what cannot be decoded, such as text
// that is not UTF-8. gRPC itself answers that with INTERNAL and no reason before
// anybody is asked; here an empty message arrives in its place, with a mark for
// which valid blames the client.
type markingCodec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return markingCodec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal takes the engine's tokens, too, of which there is an event for each token: as
// the response that tokensEvent makes of them, without making it.
func (c markingCodec) Marshal(v any) (mem.BufferSlice, error) {
	t, ok := v.(*engine.Tokens)
	switch {
	case !ok:
		return c.CodecV2.Marshal(v)
	case len(t.Logprobs) > 0 || !utf8.ValidString(t.Text):
		return c.CodecV2.Marshal(tokensEvent(t))
	}
	var room [64]byte
	message := appendTokens(room[:0], t)
	out := &encodedTokens{}
	data := protowire.AppendTag(out.room[:0], tokensField, protowire.BytesType)
	out.data = protowire.AppendBytes(data, message)
	out.list[0] = &out.data
	return out.list[:], nil
}

// encodedTokens is an encoded event with what gRPC wants to have around it, in one piece
// of memory.
type encodedTokens struct {
	list [1]mem.Buffer
	data mem.SliceBuffer
	room [40]byte
}

// The numbers of fields.
const (
	tokensField = 2 // of ExecuteResponse

	indexField  = 1 // of Tokens
	idsField    = 2
	textField   = 3
	sampleField = 5
)

// appendTokens appends the message Tokens, without probabilities.
func appendTokens(data []byte, t *engine.Tokens) []byte {
	data = appendNumber(data, indexField, t.Index)
	if len(t.IDs) > 0 {
		var room [16]byte
		ids := room[:0]
		for _, id := range t.IDs {
			ids = protowire.AppendVarint(ids, uint64(id))
		}
		data = protowire.AppendTag(data, idsField, protowire.BytesType)
		data = protowire.AppendBytes(data, ids)
	}
	if t.Text != "" {
		data = protowire.AppendTag(data, textField, protowire.BytesType)
		data = protowire.AppendString(data, t.Text)
	}
	return appendNumber(data, sampleField, t.Sample)
}

// appendNumber appends an int32, of which zero is left out.
func appendNumber(data []byte, field protowire.Number, n int) []byte {
	if n == 0 {
		return data
	}
	return protowire.AppendVarint(protowire.AppendTag(data, field, protowire.VarintType), uint64(n))
}

// Unmarshal never fails for messages.
func (c markingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok {
		return err
	}
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(undecodable)
	return nil
}

// undecodable is the mark: a field that no message has. Who sends it is told
// that the message cannot be decoded.
var undecodable = protowire.AppendVarint(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.VarintType), 1)

func isUndecodable(m proto.Message) bool {
	return bytes.Equal(m.ProtoReflect().GetUnknown(), undecodable)
}
