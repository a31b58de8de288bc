package server

import (
	"bytes"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// markingCodec is gRPC's own codec, but for what cannot be decoded, such as text
// that is not UTF-8. gRPC itself answers that with INTERNAL and no reason before
// anybody is asked; here an empty message arrives in its place, with a mark for
// which valid blames the client.
type markingCodec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return markingCodec{encoding.GetCodecV2(grpcproto.Name)} }

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
