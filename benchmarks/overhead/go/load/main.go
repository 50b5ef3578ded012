// A load client that costs little itself: one goroutine and one kept connection per worker, requests written as
// prepared bytes, answers read and searched for the source's stamps. Prints one line of JSON.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httputil"
	"net/textproto"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

type result struct {
	Requests   int     `json:"requests"`
	Failed     int     `json:"failed"`
	Why        string  `json:"why"`
	Tokens     int     `json:"tokens"`
	Seconds    float64 `json:"seconds"`
	LatencyP50 float64 `json:"latency_p50_ms"`
	LatencyP99 float64 `json:"latency_p99_ms"`
	LagP50     float64 `json:"lag_p50_ms"`
	LagP99     float64 `json:"lag_p99_ms"`
	FirstP50   float64 `json:"first_p50_ms"`
	FirstP99   float64 `json:"first_p99_ms"`
}

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
	why        string
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
	if err := w.exchange(since); err != nil {
		w.failed++
		w.why = err.Error()
		w.drop()
		return
	}
	w.latencies = append(w.latencies, time.Since(since))
}

func (w *worker) exchange(since time.Time) error {
	if err := w.connect(); err != nil {
		return err
	}
	w.connection.SetDeadline(time.Now().Add(60 * time.Second))
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
	var body io.Reader
	if header.Get("Transfer-Encoding") == "chunked" {
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
	return w.read(body, since, header.Get("Transfer-Encoding") == "chunked", header.Get("Connection") == "close")
}

func (w *worker) read(body io.Reader, since time.Time, chunked, closes bool) error {
	buffer := make([]byte, 64<<10)
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
			w.lags = append(w.lags, time.Duration(now.UnixNano()-stamp))
			if *first {
				*first = false
				w.firsts = append(w.firsts, now.Sub(since))
			}
		}
		rest = rest[at+end+2:]
	}
}

func percentile(all []time.Duration, share float64) float64 {
	if len(all) == 0 {
		return 0
	}
	at := int(share * float64(len(all)-1))
	return float64(all[at].Microseconds()) / 1000
}

func sorted(workers []*worker, of func(*worker) []time.Duration) []time.Duration {
	var all []time.Duration
	for _, w := range workers {
		all = append(all, of(w)...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all
}

func main() {
	address := flag.String("address", "", "host:port")
	path := flag.String("path", "/generate", "")
	body := flag.String("body", "{}", "JSON")
	workers := flag.Int("workers", 64, "connections")
	seconds := flag.Float64("seconds", 0, "closed and open loop: how long")
	count := flag.Int("count", 0, "closed loop: requests in all, instead of seconds")
	rate := flag.Float64("rate", 0, "open loop: requests per second in all; 0: closed loop")
	spread := flag.Float64("spread", 0, "begin the workers over this many seconds")
	flag.Parse()

	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", *path, *address, len(*body), *body)
	all := make([]*worker, *workers)
	var group sync.WaitGroup
	begun := time.Now()
	end := begun.Add(time.Duration(*seconds * float64(time.Second)))
	for number := range all {
		w := &worker{address: *address, request: request}
		all[number] = w
		group.Add(1)
		go func(number int) {
			defer group.Done()
			defer w.drop()
			offset := time.Duration(*spread * float64(time.Second) * float64(number) / float64(*workers))
			time.Sleep(offset)
			if *rate > 0 {
				step := time.Duration(float64(time.Second) * float64(*workers) / *rate)
				due := begun.Add(step * time.Duration(number) / time.Duration(*workers))
				for ; due.Before(end); due = due.Add(step) {
					time.Sleep(time.Until(due))
					w.once(due)
				}
				return
			}
			share := *count / *workers
			for done := 0; done < share || time.Now().Before(end); done++ {
				w.once(time.Now())
			}
		}(number)
	}
	group.Wait()
	report(all, time.Since(begun))
}

func report(all []*worker, took time.Duration) {
	out := result{Seconds: took.Seconds()}
	for _, w := range all {
		out.Requests += len(w.latencies)
		out.Failed += w.failed
		out.Tokens += w.tokens
		if w.why != "" {
			out.Why = w.why
		}
	}
	latencies := sorted(all, func(w *worker) []time.Duration { return w.latencies })
	lags := sorted(all, func(w *worker) []time.Duration { return w.lags })
	firsts := sorted(all, func(w *worker) []time.Duration { return w.firsts })
	out.LatencyP50, out.LatencyP99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
	out.LagP50, out.LagP99 = percentile(lags, 0.5), percentile(lags, 0.99)
	out.FirstP50, out.FirstP99 = percentile(firsts, 0.5), percentile(firsts, 0.99)
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
