package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/textproto"
	"strconv"
	"time"
)

type worker struct {
	address    string
	request    []byte
	connection net.Conn
	reader     *bufio.Reader
	latencies  []time.Duration
	lags       []time.Duration
	firsts     []time.Duration
	tokens     int
	failed     int
	begun      bool
	why        string
	buffer     []byte
}

func (w *worker) connect() error {
	if w.connection != nil {
		return nil
	}
	connection, err := net.Dial("tcp", w.address)
	if err != nil {
		return err
	}
	w.connection, w.reader = connection, bufio.NewReaderSize(connection, 16<<10)
	return nil
}

func (w *worker) drop() {
	if w.connection != nil {
		w.connection.Close()
		w.connection = nil
	}
}

// once sends one request; since is when it was due, from which its latency counts.
func (w *worker) once(since time.Time) {
	err := w.exchange(since)
	w.heard()
	if err != nil {
		w.failed++
		w.why = err.Error()
		w.drop()
		return
	}
	w.latencies = append(w.latencies, time.Since(since))
}

// heard is called with the first token, or when there will be none.
func (w *worker) heard() {
	if !w.begun {
		w.begun = true
		waiting.Add(-1)
	}
}

func (w *worker) exchange(since time.Time) error {
	if err := w.connect(); err != nil {
		return err
	}
	w.connection.SetDeadline(time.Now().Add(deadline))
	if _, err := w.connection.Write(w.request); err != nil {
		return err
	}
	lines := textproto.NewReader(w.reader)
	status, err := lines.ReadLine()
	if err != nil {
		return err
	}
	header, err := lines.ReadMIMEHeader()
	if err != nil {
		return err
	}
	chunked, closes := header.Get("Transfer-Encoding") == "chunked", header.Get("Connection") == "close"
	var body io.Reader
	if chunked {
		body = httputil.NewChunkedReader(w.reader)
	} else if length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64); err == nil {
		body = io.LimitReader(w.reader, length)
	} else {
		return fmt.Errorf("no length: %s", status)
	}
	if len(status) < 12 || status[9:12] != "200" {
		said, _ := io.ReadAll(body)
		return fmt.Errorf("%s: %.200s", status, said)
	}
	return w.read(body, since, chunked, closes)
}

func (w *worker) read(body io.Reader, since time.Time, chunked, closes bool) error {
	if w.buffer == nil {
		w.buffer = make([]byte, 16<<10)
	}
	buffer := w.buffer
	held := 0
	first := true
	for {
		n, err := body.Read(buffer[held:])
		held += n
		now := time.Now()
		held = w.stamps(buffer[:held], now, since, &first)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if held == len(buffer) {
			held = 0
		}
	}
	if chunked {
		// The chunked reader stops before the empty line that ends the trailers.
		if _, err := w.reader.ReadSlice('\n'); err != nil {
			return err
		}
	}
	if closes {
		w.drop()
	}
	return nil
}

// stamps counts whole stamps (@nanoseconds@) and keeps what may be the beginning of one at the front of the buffer.
func (w *worker) stamps(data []byte, now, since time.Time, first *bool) int {
	rest := data
	for {
		at := bytes.IndexByte(rest, '@')
		if at < 0 {
			return 0
		}
		end := bytes.IndexByte(rest[at+1:], '@')
		if end < 0 {
			return copy(data, rest[at:])
		}
		if stamp, err := strconv.ParseInt(string(rest[at+1:at+1+end]), 10, 64); err == nil {
			w.tokens++
			tokensSeen.Add(1)
			if !steady || waiting.Load() <= 0 {
				w.lags = append(w.lags, time.Duration(now.UnixNano()-stamp))
			}
			if *first {
				*first = false
				w.firsts = append(w.firsts, now.Sub(since))
				w.heard()
			}
		}
		rest = rest[at+end+2:]
	}
}
