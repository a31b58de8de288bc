package server

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// httpExecute is POST /execute: an ExecuteRequest as JSON in, server-sent
// events out. What is refused before the generation begins is an HTTP error;
// what fails later is an event named error. A client that goes away cancels.
func (s *Server) httpExecute(w *recordingWriter, r *http.Request) {
	// Browsers send other types across origins without asking first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		s.httpError(w, errWrongType)
		return
	}
	ctl := http.NewResponseController(w)
	// The body gets as long as the headers; a client that dribbles is cut off.
	if err := ctl.SetReadDeadline(time.Now().Add(s.cfg.ConnectionTimeout)); err != nil {
		s.httpError(w, fmt.Errorf("read deadline: %w", err))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.cfg.MaxMessageBytes)))
	if err != nil {
		s.httpError(w, bodyError(err))
		return
	}
	// Only a client's going away ends the reading from now on.
	if err := ctl.SetReadDeadline(time.Time{}); err != nil {
		s.httpError(w, fmt.Errorf("read deadline: %w", err))
		return
	}
	req, err := decodeExecute(body)
	if err != nil {
		s.httpError(w, err)
		return
	}

	release, err := s.admit(true)
	if err != nil {
		s.httpError(w, err)
		return
	}
	defer release()
	var c call
	events := &eventStream{w: w, ctl: ctl, timeout: s.cfg.SendTimeout}
	ctx, span := s.tracing.begin(r)
	defer func() { finish(span, w.code) }()
	err = s.execute(ctx, req, events, &c)
	s.metrics.observe(&c, err)
	w.fields = c.fields()
	switch {
	case err == nil:
	case events.begun:
		f := s.failure(err)
		w.fields = append(w.fields, "error", f.message)
		_ = events.write("error", f.json()) // if the client is there to read it
	default:
		s.httpError(w, err)
	}
}

// eventStream writes server-sent events.
type eventStream struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	timeout time.Duration // that one event may wait for the client
	begun   bool
}

// send writes one event of the stream under its own name: started, tokens,
// metrics, end. The data is the event's message as JSON.
func (e *eventStream) send(res *kigov1.ExecuteResponse) error {
	inner := res.ProtoReflect()
	field := inner.WhichOneof(inner.Descriptor().Oneofs().ByName("event"))
	if field == nil {
		return fmt.Errorf("%w: an event without content", errNoEnd)
	}
	data, err := eventJSON.Marshal(inner.Get(field).Message().Interface())
	if err != nil {
		return fmt.Errorf("event as JSON: %w", err)
	}
	return e.write(string(field.Name()), data)
}

func (e *eventStream) sendTokens(t *engine.Tokens, _ time.Time) error { return e.send(tokensEvent(t)) }

// eventJSON has the proto's own field names, as the requests may, and shows
// zeros: a first index is 0, not absent.
var eventJSON = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}

func (e *eventStream) write(name string, data []byte) error {
	if !e.begun {
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no") // proxies pass events on as they come
		e.begun = true
	}
	if err := e.ctl.SetWriteDeadline(time.Now().Add(e.timeout)); err != nil {
		return fmt.Errorf("write deadline: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, data)
	if _, err := e.w.Write(b.Bytes()); err != nil {
		return lostClient(err)
	}
	if err := e.ctl.Flush(); err != nil {
		return lostClient(err)
	}
	return nil
}
