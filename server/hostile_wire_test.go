package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"net"
	"slices"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"

	kigov1 "kigo/proto/kigo/v1"
)

// hostileWires is what no client library sends: bytes that are no message,
// calls that are no calls, connections that are no HTTP/2.
func hostileWires() []hostile {
	const (
		executePath  = "/kigo.v1.InferenceService/Execute"
		tokenizePath = "/kigo.v1.InferenceService/Tokenize"
		healthPath   = "/kigo.v1.HealthService/Health"
	)
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		return b
	}
	valid := marshal(textRequest("a", 1))
	endless := textRequest("a", 1)
	endless.MaxTokens, endless.Sampling.IgnoreEnd = nil, ptr(true)

	var all []hostile
	// raw gives a connection on which nothing has been said, wire one that has
	// shaken hands.
	raw := func(name, want string, send func(*wire) wireAnswer) {
		all = append(all, hostile{"wire: " + name, want, func(_ context.Context, a *attacker) string {
			w, err := dialWire(a.grpc)
			if err != nil {
				return err.Error()
			}
			defer w.Close()
			return send(w).String()
		}})
	}
	open := func(name, want string, send func(*wire) wireAnswer) {
		raw(name, want, func(w *wire) wireAnswer {
			w.shakeHands()
			return send(w)
		})
	}
	message := func(name, want, path string, b []byte, fields ...[2]string) {
		open(name, want, func(w *wire) wireAnswer { return w.call(path, b, fields...) })
	}
	body := func(name, want string, b []byte, fields ...[2]string) {
		open(name, want, func(w *wire) wireAnswer {
			id := w.headers(executePath, false, fields...)
			w.data(id, true, b)
			return w.answer(id)
		})
	}

	// Bytes that are no message. Field 2 of ExecuteRequest and of
	// TokenizeRequest is the text.
	const malformed = "InvalidArgument MALFORMED_MESSAGE"
	notUTF8 := append([]byte{2<<3 | 2, 4}, "a\xff\xfeb"...)
	for _, path := range []string{executePath, tokenizePath} {
		method := path[strings.LastIndexByte(path, '/')+1:]
		message("text that is not UTF-8, "+method, malformed, path, notUTF8)
		message("a surrogate, "+method, malformed, path, append([]byte{2<<3 | 2, 3}, "\xed\xa0\x80"...))
		message("a text longer than its message, "+method, malformed, path, []byte{2<<3 | 2, 100, 'a'})
		message("a length of 2^64-1, "+method, malformed, path, append([]byte{2<<3 | 2}, bytes.Repeat([]byte{0xff}, 9)...))
		message("a group that is not closed, "+method, malformed, path, []byte{2<<3 | 3})
		message("groups 25,000 deep, "+method, malformed, path, bytes.Repeat([]byte{0xa3, 0x06}, 25_000))
		message("field number 0, "+method, malformed, path, []byte{0, 0})
	}
	open("random bytes", malformed, func(w *wire) wireAnswer {
		b := make([]byte, 1000)
		_, _ = rand.Read(b)
		b[0], b[1] = 2<<3|2, 0xff // a text of 16 KiB and more
		b[2] = 0x7f
		return w.call(executePath, b)
	})
	message("a stop string that is not UTF-8", malformed, executePath, append(valid, 9<<3|2, 1, 0xff))
	message("Health with bytes that are no message", malformed, healthPath, []byte{0xff})

	// What gRPC refuses by itself, before there is a message: its own codes,
	// without a reason.
	body("no message", "Internal", nil)
	body("two messages", "Internal", bytes.Repeat(prefixed(0, valid), 2))
	body("half a message", "Internal", prefixed(0, valid)[:9])
	body("half a length", "Internal", []byte{0, 0})
	body("a message of 4 GiB", "ResourceExhausted", []byte{0, 0xff, 0xff, 0xff, 0xff})
	body("an unknown format", "Internal", prefixed(7, valid))
	body("compressed with nothing", "Internal", prefixed(1, valid))
	body("compressed with something unknown", "Unimplemented", prefixed(1, valid), [2]string{"grpc-encoding", "snappy"})
	body("32 MiB in 32 KiB", "ResourceExhausted", prefixed(1, bomb(32<<20)), [2]string{"grpc-encoding", "gzip"})
	body("gzip that is none", "Internal", prefixed(1, valid), [2]string{"grpc-encoding", "gzip"})

	// Calls of what is not there.
	const unknown = "Unimplemented UNKNOWN_METHOD"
	message("an unknown method", unknown, "/kigo.v1.InferenceService/Destroy", valid)
	message("an unknown service", unknown, "/kigo.v2.InferenceService/Execute", valid)
	message("a long unknown name", unknown, "/"+strings.Repeat("x", 8<<10)+"/y", valid)
	message("a name without a service", "Unimplemented", "/Execute", valid)
	message("no name", "Unimplemented", "x", valid)

	// Headers.
	message("a timeout that is over", "DeadlineExceeded", executePath, valid, [2]string{"grpc-timeout", "0n"})
	message("a timeout that is none", "400 Internal", executePath, valid, [2]string{"grpc-timeout", "soon"})
	message("a wrong content type", "415 InvalidArgument", executePath, valid, [2]string{"content-type", "application/json"})
	message("no content type", "415 InvalidArgument", executePath, valid, [2]string{"content-type", ""})
	message("GET", "405 Internal", executePath, valid, [2]string{":method", "GET"})
	message("no authority", "400 Internal", executePath, valid, [2]string{":authority", ""})
	message("a binary header that is none", "400 Internal", executePath, valid, [2]string{"x-bin", "%%%"})
	message("a Connection header", "RST PROTOCOL_ERROR", executePath, valid, [2]string{"connection", "close"})
	message("a header name in capitals", "RST PROTOCOL_ERROR", executePath, valid, [2]string{"X-Loud", "1"})
	message("17 KiB in one header", "closed", executePath, valid, [2]string{"x-large", strings.Repeat("x", 17<<10)})
	message("200 KiB in one header", "closed", executePath, valid, [2]string{"x-large", strings.Repeat("x", 200<<10)})
	message("17 KiB in 17 headers", "RST FRAME_SIZE_ERROR", executePath, valid,
		slices.Repeat([][2]string{{"x-large", strings.Repeat("x", 1<<10)}}, 17)...)

	// Streams and frames.
	open("a stream id of the server's", "GOAWAY PROTOCOL_ERROR", func(w *wire) wireAnswer {
		w.lastID = 1
		_ = w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: []byte{0x83}, EndHeaders: true})
		return w.answer(2)
	})
	open("129 streams that wait", "RST REFUSED_STREAM", func(w *wire) wireAnswer {
		for range 128 {
			w.headers(executePath, false)
		}
		return w.answer(w.headers(executePath, false))
	})
	open("a frame larger than allowed", "closed", func(w *wire) wireAnswer {
		w.raw([]byte{0x01, 0, 0, 0, 0, 0, 0, 0, 1}) // 64 KiB announced on a stream of 16
		return w.answer(1)
	})
	open("pings without end", "GOAWAY ENHANCE_YOUR_CALM", func(w *wire) wireAnswer {
		for range 100 {
			_ = w.framer.WritePing(false, [8]byte{})
		}
		return w.answer(1)
	})
	open("settings without end", "OK", func(w *wire) wireAnswer {
		for range 1000 {
			_ = w.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
		}
		return w.call(healthPath, nil)
	})
	open("rapid reset", "OK", func(w *wire) wireAnswer {
		for range 300 {
			id := w.headers(executePath, false)
			w.data(id, true, prefixed(0, marshal(endless)))
			_ = w.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		return w.call(healthPath, nil)
	})
	open("rapid reset of unfinished requests", "OK", func(w *wire) wireAnswer {
		for range 300 {
			_ = w.framer.WriteRSTStream(w.headers(tokenizePath, false), http2.ErrCodeCancel)
		}
		return w.call(healthPath, nil)
	})
	open("half-close of the connection in mid-stream", "closed", func(w *wire) wireAnswer {
		id := w.headers(executePath, false)
		w.data(id, true, prefixed(0, marshal(endless)))
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		return w.answer(id)
	})
	open("a reset of the connection in mid-stream", "gone", func(w *wire) wireAnswer {
		id := w.headers(executePath, false)
		w.data(id, true, prefixed(0, marshal(endless)))
		_, _ = w.framer.ReadFrame()
		_ = w.Conn.(*net.TCPConn).SetLinger(0)
		w.Close()
		return wireAnswer{gone: true}
	})

	// Those who take their time: two seconds are all they get.
	open("a request that never comes", "DeadlineExceeded DEADLINE_EXCEEDED", func(w *wire) wireAnswer {
		return w.answer(w.headers(executePath, false))
	})
	open("a request that comes in part", "DeadlineExceeded DEADLINE_EXCEEDED", func(w *wire) wireAnswer {
		id := w.headers(tokenizePath, false)
		w.data(id, false, prefixed(0, valid)[:7])
		return w.answer(id)
	})
	raw("half a preface", "closed", func(w *wire) wireAnswer {
		w.raw([]byte(http2.ClientPreface)[:10])
		return w.answer(1)
	})
	raw("nothing at all", "closed", func(w *wire) wireAnswer { return w.answer(1) })
	raw("a preface without settings", "closed", func(w *wire) wireAnswer {
		w.raw([]byte(http2.ClientPreface))
		return w.answer(1)
	})
	open("half of the headers, and no pongs", "closed", func(w *wire) wireAnswer {
		_ = w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x83}})
		_, _ = io.Copy(io.Discard, w)
		return w.answer(1)
	})

	// What is no HTTP/2.
	raw("HTTP/1", "closed", func(w *wire) wireAnswer {
		w.raw([]byte("POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"))
		_, _ = io.Copy(io.Discard, w)
		return w.answer(1)
	})
	raw("TLS", "closed", func(w *wire) wireAnswer {
		w.raw([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03})
		w.raw(make([]byte, 512))
		_, _ = io.Copy(io.Discard, w)
		return w.answer(1)
	})
	all = append(all, hostile{"wire: 100 connections that leave at once", "OK", func(ctx context.Context, a *attacker) string {
		for range 100 {
			w, err := dialWire(a.grpc)
			if err != nil {
				return err.Error()
			}
			w.raw([]byte(http2.ClientPreface))
			w.Close()
		}
		_, err := a.kigo.Health(ctx, &kigov1.HealthRequest{})
		return outcome(err)
	}})
	return all
}

// bomb is so many zeros, compressed.
func bomb(size int) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(make([]byte, size))
	_ = z.Close()
	return b.Bytes()
}
