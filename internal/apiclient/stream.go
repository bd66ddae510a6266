package apiclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Bounds of a stream.
const (
	maxLine = 4 << 20 // bytes: an event with a payload of 8 KiB, and what it was before rules
	// maxSilence is three of the program's pings.
	maxSilence = 45 * time.Second
)

// ErrSilent ends a stream that says nothing any more, not even that nothing happens.
var ErrSilent = errors.New("nothing has come for so long that the connection must be dead")

// Stream is lines of JSON, as they come. It has one user. Close it.
type Stream struct {
	body    io.ReadCloser
	lines   *bufio.Scanner
	cancel  context.CancelCauseFunc
	silence *time.Timer
	ctx     context.Context
}

// Stream opens a stream at a path below /api/v1/, such as stream?since=10m. It
// ends with ctx.
func (c *Client) Stream(ctx context.Context, path string) (*Stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	// The answer begins at once; only what follows takes its time.
	begin := time.AfterFunc(headerPatience, func() { cancel(ErrSilent) })
	response, err := c.send(ctx, http.MethodGet, path, nil)
	begin.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	s := &Stream{body: response.Body, lines: bufio.NewScanner(response.Body), cancel: cancel, ctx: ctx}
	s.lines.Buffer(make([]byte, 64<<10), maxLine)
	s.silence = time.AfterFunc(maxSilence, func() { cancel(ErrSilent) })
	return s, nil
}

// Next returns the next line, which is valid until Next is called again. The
// error is io.EOF when the program ends the stream.
func (s *Stream) Next() ([]byte, error) {
	s.silence.Reset(maxSilence)
	if s.lines.Scan() {
		return s.lines.Bytes(), nil
	}
	err := s.lines.Err()
	switch {
	case s.ctx.Err() != nil:
		return nil, context.Cause(s.ctx)
	case err == nil:
		return nil, io.EOF
	}
	return nil, fmt.Errorf("read the stream: %w", err)
}

// Close ends the stream.
func (s *Stream) Close() {
	s.silence.Stop()
	s.cancel(nil)
	_ = s.body.Close()
}
