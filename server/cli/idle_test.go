package cli

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// maxIdleBytes is what an idle connection may cost; results.md has what it
// does cost.
const maxIdleBytes = 64 << 10

// Connections that do nothing cost the server little memory each, gRPC and
// HTTP, and it answers beside them. When they leave, they leave nothing.
func TestIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("the binary has no race detector in it: see the run without -short")
	}
	connections := 1000
	if long() {
		connections = 5000
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if want := uint64(connections + 200); limit.Cur < want {
		t.Skipf("%d descriptors are allowed, %d connections need %d", limit.Cur, connections, want)
	}
	for _, protocol := range []struct {
		name string
		open func(t *testing.T, c *process) (net.Conn, error)
	}{
		{"gRPC", func(_ *testing.T, c *process) (net.Conn, error) { return openIdleGRPC(c.grpc) }},
		{"HTTP", func(_ *testing.T, c *process) (net.Conn, error) { return openIdleHTTP(c.http) }},
	} {
		t.Run(protocol.name, func(t *testing.T) {
			c := startProcess(t, "--model", tinyModel(t), "--log-level", "info", "--keepalive-time", "1h", "--drain-delay", "0")
			c.expect(t, "ready")
			open := func(n int) func() {
				all := make([]net.Conn, n)
				for i := range all {
					var err error
					if all[i], err = protocol.open(t, c); err != nil {
						t.Fatal(err)
					}
				}
				return func() {
					for _, conn := range all {
						conn.Close()
					}
				}
			}
			open(20)() // what there is once for all
			before, descriptors := c.memory(t), c.descriptors(t)
			leave := open(connections)
			kigo(t, "", nil, "health", "--server", c.grpc).mustSucceed(t)
			each := (c.memory(t) - before) / connections
			t.Logf("%d idle %s connections: %.1f KiB each", connections, protocol.name, float64(each)/1024)
			if each > maxIdleBytes {
				t.Errorf("%d bytes for each connection, at most %d are allowed", each, maxIdleBytes)
			}
			leave()
			for deadline := time.Now().Add(patience); c.descriptors(t) > descriptors; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d descriptors are open, %d were before", c.descriptors(t), descriptors)
				}
			}
			if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := c.exit(t); code != exitOK {
				t.Errorf("exit code %d, want 0", code)
			}
		})
	}
}

// openIdleGRPC shakes hands, so that the connection is one of gRPC's, and then
// says nothing.
func openIdleGRPC(address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return nil, err
	}
	for { // until the server has read ours
		frame, err := framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && settings.IsAck() {
			return conn, framer.WriteSettingsAck()
		}
	}
}

// openIdleHTTP has a connection kept alive after its first request.
func openIdleHTTP(address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return nil, err
	}
	answer := make([]byte, 1024)
	n, err := conn.Read(answer)
	if err == nil && !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200") {
		err = fmt.Errorf("the server answers %q", answer[:n])
	}
	return conn, err
}

// memory is the process's resident memory in bytes, once it has settled.
func (c *process) memory(t testing.TB) int {
	t.Helper()
	last := 0
	for range 50 {
		now := c.rss(t)
		if now <= last+64<<10 {
			return now
		}
		last = now
		time.Sleep(100 * time.Millisecond)
	}
	return last
}

func (c *process) rss(t testing.TB) int {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.cmd.Process.Pid))
	if err != nil {
		t.Skipf("memory cannot be measured here: %v", err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// descriptors counts the process's open files.
func (c *process) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
