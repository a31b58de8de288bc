package loadtest

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kigov1 "kigo/proto/kigo/v1"
)

// connStreams is how many streams share a connection. Servers commonly allow 100,
// and a stream beyond what one allows waits at the client, where nobody sees why.
const connStreams = 64

// pool is a server behind as many connections as its streams need. It keeps the
// largest number that there have been at one time.
type pool struct {
	address string

	mu    sync.Mutex
	conns []*pooled
}

// pooled is a connection and how many streams are on it.
type pooled struct {
	conn    *grpc.ClientConn
	streams int
}

func newPool(address string) *pool { return &pool{address: address} }

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.conn.Close() // which fails only where it is closed already
	}
	p.conns = nil
}

// take finds a connection with room for a stream; give gives the place back.
func (p *pool) take() (*pooled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.streams < connStreams {
			c.streams++
			return c, nil
		}
	}
	conn, err := grpc.NewClient(p.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Windows of a fixed size spare the pings that measure a better one.
		grpc.WithInitialWindowSize(1<<16-1), grpc.WithInitialConnWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	c := &pooled{conn: conn, streams: 1}
	p.conns = append(p.conns, c)
	return c, nil
}

func (p *pool) give(c *pooled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
}

func (p *pool) health(ctx context.Context) (*kigov1.HealthResponse, error) {
	c, err := p.take()
	if err != nil {
		return nil, err
	}
	defer p.give(c)
	return kigov1.NewHealthServiceClient(c.conn).Health(ctx, &kigov1.HealthRequest{})
}

// execute is target's. The place on the connection is free again when the stream
// has ended, or ctx has.
func (p *pool) execute(ctx context.Context, r *kigov1.ExecuteRequest) (func() (event, error), error) {
	c, err := p.take()
	if err != nil {
		return nil, err
	}
	over := sync.OnceFunc(func() { p.give(c) })
	stream, err := kigov1.NewInferenceServiceClient(c.conn).Execute(ctx, r)
	if err != nil {
		over()
		return nil, err
	}
	context.AfterFunc(ctx, over)
	var response kigov1.ExecuteResponse
	return func() (event, error) {
		if err := stream.RecvMsg(&response); err != nil {
			over()
			return event{}, err
		}
		return eventOf(&response), nil
	}, nil
}

// cancel is target's.
func (p *pool) cancel(ctx context.Context, requestID string) error {
	c, err := p.take()
	if err != nil {
		return err
	}
	defer p.give(c)
	_, err = kigov1.NewInferenceServiceClient(c.conn).Cancel(ctx, &kigov1.CancelRequest{RequestId: requestID})
	return err
}
