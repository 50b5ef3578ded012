// A stand-in for an engine on TGI's wire. It does nothing but write bytes, so that what stands in front of it is what is
// measured. Every token carries the instant at which it was written.
//
// A request says in its own text what it wants: "tokens=20 rate=50" anywhere in the body. Without a rate all is
// sent at once, as fast as it goes. With "pause=60" nothing comes for so many seconds behind the first token.
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

// The same in OpenAI's form, for programs that know no other.
func chatToken(to []byte, ends bool) []byte {
	reason := "null"
	if ends {
		reason = `"length"`
	}
	to = append(to, `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"source",`+
		`"choices":[{"index":0,"delta":{"role":"assistant","content":" @`...)
	to = strconv.AppendInt(to, time.Now().UnixNano(), 10)
	to = fmt.Appendf(to, `@"},"finish_reason":%s}]}`+"\n\n", reason)
	if ends {
		to = append(to, "data: [DONE]\n\n"...)
	}
	return to
}

func chatWhole(w http.ResponseWriter, tokens int) {
	w.Header().Set("content-type", "application/json")
	fmt.Fprintf(w, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"source","choices":[{"index":0,`+
		`"message":{"role":"assistant","content":"%s"},"finish_reason":"length"}],`+
		`"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d}}`, text, tokens, tokens+12)
}

func whole(w http.ResponseWriter, tokens int) {
	w.Header().Set("content-type", "application/json")
	fmt.Fprintf(w, `{"generated_text":"%s","details":{"finish_reason":"length","generated_tokens":%d,"seed":null}}`,
		text, tokens)
}

// wished is what a request asks for.
type wished struct {
	tokens, rate, pause int
	chat                bool
}

func stream(w http.ResponseWriter, r *http.Request, wish wished) {
	tokens, rate := wish.tokens, wish.rate
	w.Header().Set("content-type", "text/event-stream")
	flusher := w.(http.Flusher)
	buffer := make([]byte, 0, 512)
	next := time.Now()
	for index := 1; index <= tokens; index++ {
		if rate > 0 {
			if index == 2 && wish.pause > 0 {
				next = time.Now().Add(time.Duration(wish.pause) * time.Second)
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Until(next)):
				}
			} else if index > 1 {
				next = next.Add(time.Second / time.Duration(rate))
				time.Sleep(time.Until(next))
			}
			if r.Context().Err() != nil {
				return
			}
		}
		if wish.chat {
			buffer = chatToken(buffer[:0], index == tokens)
		} else if index == tokens {
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
	wish := wished{number(body, "tokens", 20), number(body, "rate", 0), number(body, "pause", 0), false}
	wish.chat = r.URL.Path == "/v1/chat/completions"
	// vllm-router has one route for both and says in the body which is meant.
	streams := r.URL.Path == "/generate_stream" || bytes.Contains(body, []byte(`"stream":true`))
	if streams || bytes.Contains(body, []byte(`"stream": true`)) {
		stream(w, r, wish)
	} else if wish.chat {
		chatWhole(w, wish.tokens)
	} else {
		whole(w, wish.tokens)
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
	http.HandleFunc("/v1/chat/completions", answer)
	http.HandleFunc("/info", fixed(`{"model_id":"source","max_total_tokens":1000000}`))
	http.HandleFunc("/v1/models", fixed(`{"object":"list","data":[{"id":"source","object":"model"}]}`))
	http.HandleFunc("/", fixed(`{}`))
	fmt.Printf("Listening on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
