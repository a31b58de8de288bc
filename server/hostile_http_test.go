package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// hostileBodies is what is sent to the HTTP port.
func hostileBodies() []hostile {
	var all []hostile
	add := func(name, want string, send func(context.Context, *attacker) string) {
		all = append(all, hostile{"HTTP: " + name, want, send})
	}
	post := func(name, want, contentType, body string) {
		add(name, want, func(ctx context.Context, a *attacker) string {
			return a.do(ctx, http.MethodPost, "/execute", contentType, strings.NewReader(body))
		})
	}
	const (
		asJSON    = "application/json"
		malformed = "400 MALFORMED_MESSAGE"
		invalid   = "400 INVALID_REQUEST "
	)
	for _, c := range []struct{ name, body string }{
		{"nothing", ""},
		{"no JSON", "prompt=a"},
		{"an array", `["a"]`},
		{"a string", `"a"`},
		{"null", "null"},
		{"half an object", `{"prompt": "a"`},
		{"two objects", `{"prompt": "a"}{"prompt": "b"}`},
		{"a comma too many", `{"prompt": "a",}`},
		{"a trailing word", `{"prompt": "a"} x`},
		{"bytes that are not UTF-8", "{\"prompt\": \"a\xff\xfe\"}"},
		{"half a surrogate pair", `{"prompt": "\ud800"}`},
		{"a million brackets", `{"prompt": ` + strings.Repeat("[", 1_000_000) + `}`},
		{"objects 20,000 deep", `{"prompt": ` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000) + "}"},
		{"a zip file", "PK\x03\x04" + strings.Repeat("\x00", 100)},
		{"a form", "--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na\r\n--x--"},
	} {
		post(c.name, malformed, asJSON, c.body)
	}
	for _, c := range []struct{ name, body, fields string }{
		{"an empty object", `{}`, "prompt"},
		{"a name twice", `{"prompt": "a", "prompt": "b"}`, "prompt"},
		{"a prompt in two forms", `{"prompt": "a", "text": "b"}`, "text"},
		{"two prompts", `{"prompt": "a", "tokens": {"ids": [1]}}`, "prompt"},
		{"an unknown field", `{"prompt": "a", "__proto__": {}}`, "__proto__"},
		{"a number for a text", `{"prompt": 1}`, "text"},
		{"NaN", `{"prompt": "a", "temperature": "NaN"}`, "sampling.temperature"},
		{"a number beyond all", `{"prompt": "a", "temperature": 1e999}`, "temperature"},
		{"max_tokens of a half", `{"prompt": "a", "max_tokens": 0.5}`, "max_tokens"},
		{"max_tokens beyond int32", `{"prompt": "a", "max_tokens": 99999999999}`, "max_tokens"},
		{"a negative seed", `{"prompt": "a", "seed": -1}`, "seed"},
		{"everything wrong", `{"prompt": "a", "top_p": 2, "min_p": -1, "max_tokens": 0}`, "max_tokens sampling.min_p sampling.top_p"},
	} {
		post(c.name, invalid+c.fields, asJSON, c.body)
	}
	post("not served", "501 NOT_SERVED resume_grace", asJSON, `{"prompt": "a", "resume_grace": "1s", "priority": 1}`)
	post("another model", "404 MODEL_NOT_FOUND", asJSON, `{"prompt": "a", "model": "/etc/passwd"}`)
	post("beyond the context", "400 INVALID_REQUEST max_tokens", asJSON, `{"prompt": "a", "max_tokens": 2147483647}`)
	post("more than 4 MiB", "413 MESSAGE_TOO_LARGE", asJSON, `{"prompt": "`+strings.Repeat("x", 4<<20)+`"}`)
	post("no content type", "415 WRONG_CONTENT_TYPE", "", `{"prompt": "a"}`)
	post("a browser's content type", "415 WRONG_CONTENT_TYPE", "text/plain", `{"prompt": "a"}`)
	post("a content type that is none", "415 WRONG_CONTENT_TYPE", "application/json; =", `{"prompt": "a"}`)

	add("another method", "405", func(ctx context.Context, a *attacker) string {
		return a.do(ctx, http.MethodDelete, "/execute", asJSON, http.NoBody)
	})
	add("another path", "404", func(ctx context.Context, a *attacker) string {
		return a.do(ctx, http.MethodPost, "/../../etc/passwd", asJSON, http.NoBody)
	})
	add("64 KiB of headers", "431", func(_ context.Context, a *attacker) string {
		return a.raw("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 64<<10) + "\r\n\r\n")
	})
	add("two lengths", "400", func(_ context.Context, a *attacker) string {
		return a.raw("POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x")
	})
	add("a length that is none", "400", func(_ context.Context, a *attacker) string {
		return a.raw("POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}")
	})
	add("an unknown transfer encoding", "501", func(_ context.Context, a *attacker) string {
		return a.raw("POST /execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}")
	})
	add("a chunk that is none", "400 MALFORMED_MESSAGE", func(_ context.Context, a *attacker) string {
		return a.raw("POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}")
	})
	add("no HTTP", "400", func(_ context.Context, a *attacker) string { return a.raw("\x00\x01\x02\r\n\r\n") })
	add("no host", "400", func(_ context.Context, a *attacker) string { return a.raw("GET /healthz HTTP/1.1\r\n\r\n") })
	add("HTTP/2 unasked", "400", func(_ context.Context, a *attacker) string {
		return a.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	})

	// Those who take their time, and those who leave.
	add("headers that never end", "400", func(_ context.Context, a *attacker) string {
		return a.raw("POST /execute HTTP/1.1\r\nHost: x\r\nContent-Ty")
	})
	add("a body that never ends", "504 DEADLINE_EXCEEDED", func(_ context.Context, a *attacker) string {
		return a.raw("POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	})
	leave := func(name string, hangUp func(*net.TCPConn)) {
		add(name, "gone", func(_ context.Context, a *attacker) string {
			conn, err := net.Dial("tcp", a.http.String())
			if err != nil {
				return err.Error()
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			body := `{"prompt": "a", "ignore_end": true}`
			fmt.Fprintf(conn, "POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != "event: tokens"; {
			}
			hangUp(conn.(*net.TCPConn))
			return "gone"
		})
	}
	leave("a reset in mid-stream", func(c *net.TCPConn) { _ = c.SetLinger(0) })
	leave("a close in mid-stream", func(*net.TCPConn) {})
	leave("a half-close in mid-stream", func(c *net.TCPConn) {
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c) // to the end, which the server makes
	})
	return all
}

// do sends a request and gives its outcome: the status code, the reason and
// the fields.
func (a *attacker) do(ctx context.Context, method, path, contentType string, body io.Reader) string {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.http.String(), body)
	if err != nil {
		return err.Error()
	}
	req.URL.Path = path
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	return httpOutcome(res)
}

// raw sends bytes, and reads what the server says before it closes.
func (a *attacker) raw(text string) string {
	conn, err := net.Dial("tcp", a.http.String())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, text)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "closed"
	}
	defer res.Body.Close()
	return httpOutcome(res)
}

func httpOutcome(res *http.Response) string {
	text := fmt.Sprint(res.StatusCode)
	body, _ := io.ReadAll(res.Body) // the server may have closed without reading all
	var failure struct {
		Error struct {
			Reason     string
			Violations []struct{ Field string }
		}
	}
	if !bytes.HasPrefix(body, []byte("{")) || json.Unmarshal(body, &failure) != nil {
		return text
	}
	text += " " + failure.Error.Reason
	var fields []string
	for _, v := range failure.Error.Violations {
		fields = append(fields, v.Field)
	}
	return strings.TrimSpace(text + " " + strings.Join(slices.Compact(sorted(fields)), " "))
}
