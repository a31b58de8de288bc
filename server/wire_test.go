package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// wire is an HTTP/2 connection spoken by hand, for what no client library
// sends. One goroutine uses it. What fails shows in the answer.
type wire struct {
	net.Conn
	framer *http2.Framer
	head   bytes.Buffer
	enc    *hpack.Encoder
	lastID uint32
}

// dialWire connects and says nothing yet.
func dialWire(addr net.Addr) (*wire, error) {
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	w := &wire{Conn: conn, framer: http2.NewFramer(conn, conn)}
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.AllowIllegalWrites = true
	w.enc = hpack.NewEncoder(&w.head)
	return w, nil
}

// shakeHands is the client's part of it.
func (w *wire) shakeHands() {
	w.raw([]byte(http2.ClientPreface))
	_ = w.framer.WriteSettings()
}

// raw writes bytes.
func (w *wire) raw(b []byte) { _, _ = w.Write(b) }

// headers opens the next stream with a gRPC call's headers, of which fields
// replaces some, adds others, and takes those away that it sets to "".
func (w *wire) headers(path string, end bool, fields ...[2]string) (id uint32) {
	all := [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "test"},
		{"te", "trailers"}, {"content-type", "application/grpc"},
	}
	defaults := len(all)
next:
	for _, f := range fields {
		for i := range defaults {
			if all[i][0] == f[0] {
				all[i][1] = f[1]
				continue next
			}
		}
		all = append(all, f)
	}
	w.head.Reset()
	for _, f := range all {
		if f[1] != "" {
			_ = w.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
	}
	if w.lastID++; w.lastID%2 == 0 {
		w.lastID++
	}
	block, first := w.head.Bytes(), true
	for first || len(block) > 0 {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		if first {
			_ = w.framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: w.lastID, BlockFragment: part, EndStream: end, EndHeaders: len(block) == 0,
			})
		} else {
			_ = w.framer.WriteContinuation(w.lastID, len(block) == 0, part)
		}
		first = false
	}
	return w.lastID
}

// data sends bytes on a stream, within the first windows of 64 KiB.
func (w *wire) data(id uint32, end bool, b []byte) {
	for {
		part := b[:min(len(b), 16<<10)]
		b = b[len(part):]
		_ = w.framer.WriteData(id, end && len(b) == 0, part)
		if len(b) == 0 {
			return
		}
	}
}

// call sends a message as one call.
func (w *wire) call(path string, message []byte, fields ...[2]string) wireAnswer {
	id := w.headers(path, false, fields...)
	w.data(id, true, prefixed(0, message))
	return w.answer(id)
}

// prefixed is a message as gRPC sends it.
func prefixed(flag byte, message []byte) []byte {
	b := append([]byte{flag}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...)
	return append(b, message...)
}

// wireAnswer is how a stream of a wire ended.
type wireAnswer struct {
	http     string         // :status, where it was not 200
	status   *status.Status // from the trailers; nil without them
	reset    *http2.ErrCode // RST_STREAM without trailers
	goAway   *http2.ErrCode // the connection's end, announced
	closed   bool           // the connection's end
	messages int            // that came before
	gone     bool           // the client has not waited
	err      error          // of reading
}

// answer reads until the stream id, or the connection, has ended.
func (w *wire) answer(id uint32) (a wireAnswer) {
	for {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			a.err, a.closed = err, !errors.Is(err, os.ErrDeadlineExceeded)
			return a
		}
		switch f := frame.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = w.framer.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			code := f.ErrCode
			a.goAway = &code
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				code := f.ErrCode
				a.reset = &code
				return a
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				a.messages++
			}
			if n := len(f.Data()); n > 0 {
				_ = w.framer.WriteWindowUpdate(0, uint32(n))
				if f.StreamID == id {
					_ = w.framer.WriteWindowUpdate(id, uint32(n))
				}
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				continue
			}
			if s := f.PseudoValue("status"); s != "" && s != "200" {
				a.http = s
			}
			if f.StreamEnded() {
				a.status = trailerStatus(f)
				return a
			}
		}
	}
}

// trailerStatus is the status that trailers carry.
func trailerStatus(f *http2.MetaHeadersFrame) *status.Status {
	p := &spb.Status{}
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "grpc-status":
			code, err := strconv.Atoi(h.Value)
			if err != nil {
				code = int(codes.Unknown)
			}
			p.Code = int32(code)
		case "grpc-message":
			p.Message = h.Value
		case "grpc-status-details-bin":
			if b, err := base64.RawStdEncoding.DecodeString(h.Value); err == nil {
				_ = proto.Unmarshal(b, p)
			}
		}
	}
	return status.FromProto(p)
}

// String is an answer as the tables of the tests have it: "RST REFUSED_STREAM",
// "GOAWAY PROTOCOL_ERROR", "closed", or the status as [outcome] writes it, with
// the HTTP status before it where that says more.
func (a wireAnswer) String() string {
	switch {
	case a.gone:
		return "gone"
	case a.reset != nil:
		return "RST " + a.reset.String()
	case a.status != nil && a.http != "":
		return a.http + " " + outcome(a.status.Err())
	case a.status != nil:
		return outcome(a.status.Err())
	case a.goAway != nil:
		return "GOAWAY " + a.goAway.String()
	case a.closed:
		return "closed"
	}
	return fmt.Sprintf("no answer: %v", a.err)
}

// outcome is an error as the tables of the tests have it: the code, the reason
// and the fields, such as "InvalidArgument INVALID_REQUEST max_tokens".
func outcome(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return "OK"
	}
	st := status.Convert(err)
	text := st.Code().String()
	reason, fields := detailsText(st)
	if reason != "" {
		text += " " + reason
	}
	for _, f := range fields {
		text += " " + f
	}
	return text
}
