package server

import (
	"bytes"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kigov1 "kigo/proto/kigo/v1"
)

// markingCodec is gRPC's own codec, but for what cannot be decoded, such as text
// that is not UTF-8. gRPC itself answers that with INTERNAL and no reason before
// anybody is asked; here an empty message arrives in its place, with a mark for
// which valid blames the client.
type markingCodec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return markingCodec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal has a way of its own for tokens events, of which there is one for each token:
// the event's own message does without the reflection that a oneof costs.
func (c markingCodec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*kigov1.ExecuteResponse)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	e, ok := r.GetEvent().(*kigov1.ExecuteResponse_Tokens)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size := proto.Size(e.Tokens)
	head := protowire.SizeTag(tokensField) + protowire.SizeVarint(uint64(size))
	data := protowire.AppendTag(make([]byte, 0, head+size), tokensField, protowire.BytesType)
	data = protowire.AppendVarint(data, uint64(size))
	data, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(data, e.Tokens)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

var tokensField = (*kigov1.ExecuteResponse)(nil).ProtoReflect().Descriptor().Fields().ByName("tokens").Number()

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
