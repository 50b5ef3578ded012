// A stand-in for an engine on TGI's wire. It does nothing but write bytes, so that what stands in front of it is what is
// measured. Every token carries the instant at which it was written.
//
// A request says in its own text what it wants: "tokens=20 rate=50" anywhere in the body. Without a rate all is
// sent at once, as fast as it goes.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"
)

const text = "The quick brown fox jumps over the lazy dog."

func number(body []byte, name string, otherwise int) int {
	_, rest, found := bytes.Cut(body, []byte(name+"="))
	if !found {
		return otherwise
	}
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	value, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return otherwise
	}
	return value
}

// token appends one event. The stamp is in the token's text: it survives whatever dialect the token is put in.
func token(to []byte, index int) []byte {
	to = append(to, `data: {"index":`...)
	to = strconv.AppendInt(to, int64(index), 10)
	to = append(to, `,"token":{"id":1234,"text":" @`...)
	to = strconv.AppendInt(to, time.Now().UnixNano(), 10)
	return append(to, `@","logprob":-0.125,"special":false},"generated_text":null,"details":null}`+"\n\n"...)
}

func last(to []byte, index int) []byte {
	to = token(to, index)
	to = bytes.TrimSuffix(to, []byte(`"generated_text":null,"details":null}`+"\n\n"))
	return fmt.Appendf(to, `"generated_text":"%s","details":{"finish_reason":"length",`+
		`"generated_tokens":%d,"seed":null,"input_length":12}}`+"\n\n", text, index)
}

func whole(w http.ResponseWriter, tokens int) {
	w.Header().Set("content-type", "application/json")
	fmt.Fprintf(w, `{"generated_text":"%s","details":{"finish_reason":"length","generated_tokens":%d,"seed":null}}`,
		text, tokens)
}

func stream(w http.ResponseWriter, r *http.Request, tokens, rate int) {
	w.Header().Set("content-type", "text/event-stream")
	flusher := w.(http.Flusher)
	buffer := make([]byte, 0, 512)
	next := time.Now()
	for index := 1; index <= tokens; index++ {
		if rate > 0 {
			if index > 1 {
				next = next.Add(time.Second / time.Duration(rate))
				time.Sleep(time.Until(next))
			}
			if r.Context().Err() != nil {
				return
			}
		}
		if index == tokens {
			buffer = last(buffer[:0], index)
		} else {
			buffer = token(buffer[:0], index)
		}
		if _, err := w.Write(buffer); err != nil {
			return
		}
		if rate > 0 {
			flusher.Flush()
		}
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	tokens, rate := number(body, "tokens", 20), number(body, "rate", 0)
	// vllm-router has one route for both and says in the body which is meant.
	streams := r.URL.Path == "/generate_stream" || bytes.Contains(body, []byte(`"stream":true`))
	if streams {
		stream(w, r, tokens, rate)
	} else {
		whole(w, tokens)
	}
}

func fixed(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		io.WriteString(w, body)
	}
}

func main() {
	port := flag.Int("port", 0, "port on the loopback interface; 0: a free one, which is printed")
	flag.Parse()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/generate", answer)
	http.HandleFunc("/generate_stream", answer)
	http.HandleFunc("/info", fixed(`{"model_id":"source","max_total_tokens":1000000}`))
	http.HandleFunc("/v1/models", fixed(`{"object":"list","data":[{"id":"source","object":"model"}]}`))
	http.HandleFunc("/", fixed(`{}`))
	fmt.Printf("Listening on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
