package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// The settings that a server has when nothing is said.
func TestDefaultSettings(t *testing.T) {
	t.Parallel()
	c := server.DefaultConfig()
	for name, ok := range map[string]bool{
		"streams of a connection": c.MaxConnStreams == 128,
		"streams in all":          c.MaxStreams == 4096,
		"connections":             c.MaxConnections == 16384,
		"message":                 c.MaxMessageBytes == 4<<20,
		"headers":                 c.MaxHeaderBytes == 16<<10,
		"keepalive time":          c.KeepaliveTime == 20*time.Second,
		"keepalive timeout":       c.KeepaliveTimeout == 10*time.Second,
		"keepalive minimum":       c.KeepaliveMin == 10*time.Second,
		"connection timeout":      c.ConnectionTimeout == 10*time.Second,
		"drain delay":             c.DrainDelay == 5*time.Second,
		"drain, stop":             c.DrainTimeout == 30*time.Second && c.StopTimeout == 5*time.Second,
		"reflection":              c.Reflection,
		"loopback":                strings.HasPrefix(c.GRPCAddress, "127.0.0.1:") && strings.HasPrefix(c.HTTPAddress, "127.0.0.1:") && !c.Insecure,
	} {
		if !ok {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// hanging answers every request with its first token and then with nothing.
func hanging() *fakeEngine {
	return submits(newFake(), func() server.TokenStream {
		return &fakeStream{next: func(ctx context.Context, n int) (engine.Event, error) {
			if n == 0 {
				return tokenEvent(0, "x"), nil
			}
			<-ctx.Done()
			return engine.Event{}, ctx.Err()
		}}
	})
}

// One connection cannot have more calls in flight than it may; another one is
// not concerned.
func TestStreamsOfAConnectionAreLimited(t *testing.T) {
	t.Parallel()
	f := start(t, hanging(), nil, func(c *server.Config) { c.MaxConnStreams = 2 })
	f.mustBeUp(t) // the client knows the limit from then on
	for range 2 {
		stream, err := f.inference.Execute(t.Context(), textRequest("a", 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	// The client itself waits for a place.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := f.kigo.Health(ctx, &kigov1.HealthRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a third call on the connection: %v", err)
	}
	other, err := grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := kigov1.NewHealthServiceClient(other).Health(t.Context(), &kigov1.HealthRequest{}); err != nil {
		t.Errorf("a call on another connection: %v", err)
	}
}

func TestHeadersAreLimited(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	for size, ok := range map[int]bool{8 << 10: true, 20 << 10: false} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-large", strings.Repeat("x", size))
		if _, err := f.kigo.Health(ctx, &kigov1.HealthRequest{}); (err == nil) != ok {
			t.Errorf("%d bytes of headers: %v", size, err)
		}
	}
	// A client that does not keep to what it was told is refused by the server.
	c := dialHTTP2(t, f)
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/kigo.v1.HealthService/Health"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"x-large", strings.Repeat("xyz ", 5<<10)}} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	rest := block.Bytes()
	for first := true; first || len(rest) > 0; first = false {
		part := rest[:min(len(rest), 16<<10)]
		rest = rest[len(part):]
		var err error
		if first {
			err = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part, EndHeaders: len(rest) == 0})
		} else {
			err = c.WriteContinuation(1, len(rest) == 0, part)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for {
		frame, err := c.ReadFrame()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("the headers were taken: the server waits for the message")
		}
		if err != nil {
			break // the connection is closed: refused, too
		}
		if _, reset := frame.(*http2.RSTStreamFrame); reset {
			break
		}
		if h, ok := frame.(*http2.HeadersFrame); ok {
			fields, err := hpack.NewDecoder(4096, nil).DecodeFull(h.HeaderBlockFragment())
			if err != nil {
				t.Fatal(err)
			}
			for _, field := range fields {
				if field.Name == "grpc-status" && field.Value == "0" {
					t.Error("the call was served")
				}
			}
			break
		}
	}
}

// http2Conn is a client of HTTP/2 that does what a test wants and no more.
type http2Conn struct {
	*http2.Framer
	net.Conn
}

func dialHTTP2(t *testing.T, f *fixture) *http2Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.GRPCAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c := &http2Conn{http2.NewFramer(conn, conn), conn}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// A client that pings without a pause is sent away.
func TestPingFloodIsEnded(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	c := dialHTTP2(t, f)
	for range 20 {
		if c.WritePing(false, [8]byte{}) != nil {
			break // gone already
		}
	}
	var away *http2.GoAwayFrame
	for away == nil {
		frame, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("the connection ended without a word: %v", err)
		}
		away, _ = frame.(*http2.GoAwayFrame)
	}
	if away.ErrCode != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("sent away with %v", away.ErrCode)
	}
}

// A client that pings as often as it may is kept, with no call in flight.
func TestPingsAreAllowed(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil, func(c *server.Config) { c.KeepaliveMin = time.Millisecond })
	c := dialHTTP2(t, f)
	for sent, answered := 0, 0; answered < 10; {
		if sent == answered {
			time.Sleep(2 * time.Millisecond)
			if err := c.WritePing(false, [8]byte{byte(sent)}); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		frame, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("after %d pings: %v", sent, err)
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("sent away after %d pings: %v", sent, frame.ErrCode)
		case *http2.PingFrame:
			if frame.IsAck() {
				answered++
			}
		}
	}
}

// A client that says nothing, not even the first word, is not waited for, and one
// that stops answering pings is given up.
func TestSilentClientsAreGivenUp(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil, func(c *server.Config) {
		c.ConnectionTimeout = 200 * time.Millisecond
		c.KeepaliveTime, c.KeepaliveTimeout = time.Second, 100*time.Millisecond // gRPC takes no less than a second
	})
	mute, err := net.Dial("tcp", f.GRPCAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	if err := mute.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, mute); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that says nothing: %v", err)
	}

	c := dialHTTP2(t, f)
	pings := 0
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("a client that does not answer pings is kept")
			}
			break
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = c.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				pings++
			}
		}
	}
	if pings == 0 {
		t.Error("the server never pinged")
	}
}

// More connections than may be open wait to be accepted.
func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil, func(c *server.Config) { c.MaxConnections = 1 })
	f.mustBeUp(t) // over the one connection
	second, err := grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	health := kigov1.NewHealthServiceClient(second)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := health.Health(ctx, &kigov1.HealthRequest{}, grpc.WaitForReady(true)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a second connection: %v", err)
	}
	f.conn.Close()
	if _, err := health.Health(t.Context(), &kigov1.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("when the first has gone: %v", err)
	}
}
