// A load client that costs little itself: one goroutine and one kept connection per worker, requests written as
// prepared bytes, answers read and searched for the source's stamps. The last line that it prints is the result, as
// JSON; lines before it, if asked for, mark instants at which whoever started it takes its own measures.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type options struct {
	workers       int
	seconds, rate float64
	count         int
	spread        float64
	window        float64
}

// Of all workers: tokens that came, and how many workers have not seen one yet.
var (
	tokensSeen atomic.Int64
	waiting    atomic.Int64
	deadline   time.Duration
	steady     bool
)

func request(address, path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", path, address, len(body), body)
}

// start runs workers in the background; lead is what an open loop's requests come later than begun.
func start(group *sync.WaitGroup, o options, address string, asked []byte, begun time.Time, lead time.Duration) []*worker {
	all := make([]*worker, o.workers)
	end := begun.Add(time.Duration(o.seconds * float64(time.Second)))
	for number := range all {
		w := &worker{address: address, request: asked}
		all[number] = w
		group.Add(1)
		go func(number int) {
			defer group.Done()
			defer w.drop()
			if o.rate > 0 {
				step := time.Duration(float64(time.Second) * float64(o.workers) / o.rate)
				due := begun.Add(lead + step*time.Duration(number)/time.Duration(o.workers))
				for ; due.Before(end); due = due.Add(step) {
					time.Sleep(time.Until(due))
					w.once(due)
				}
				return
			}
			time.Sleep(time.Duration(o.spread * float64(time.Second) * float64(number) / float64(o.workers)))
			share := o.count / o.workers
			for done := 0; done < share || time.Now().Before(end); done++ {
				w.once(time.Now())
			}
		}(number)
	}
	return all
}

// marks says when every worker has its first token, and once more so many seconds later.
func marks(seconds float64) {
	for waiting.Load() > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Printf(`{"mark":"begun","tokens":%d}`+"\n", tokensSeen.Load())
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	fmt.Printf(`{"mark":"end","tokens":%d}`+"\n", tokensSeen.Load())
}

func main() {
	var o options
	address := flag.String("address", "", "host:port")
	path := flag.String("path", "/generate", "")
	body := flag.String("body", "{}", "JSON")
	flag.IntVar(&o.workers, "workers", 64, "connections")
	flag.Float64Var(&o.seconds, "seconds", 0, "closed and open loop: how long")
	flag.IntVar(&o.count, "count", 0, "closed loop: requests in all, instead of seconds")
	flag.Float64Var(&o.rate, "rate", 0, "open loop: requests per second in all; 0: closed loop")
	flag.Float64Var(&o.spread, "spread", 0, "begin the workers over this many seconds")
	flag.Float64Var(&o.window, "window", 0, "streams: mark when all have begun, and this many seconds later")
	patience := flag.Float64("patience", 60, "seconds that an answer may take in all")
	flag.BoolVar(&steady, "steady", false, "the lag counts once all workers have begun")
	samples := flag.Bool("samples", false, "give every latency, too")
	besideAddress := flag.String("beside-address", "", "open loop: ask this one as well, always halfway between")
	besidePath := flag.String("beside-path", "/generate", "")
	besideBody := flag.String("beside-body", "{}", "JSON")
	flag.Parse()
	deadline = time.Duration(*patience * float64(time.Second))

	var group sync.WaitGroup
	begun := time.Now()
	waiting.Store(int64(o.workers))
	all := start(&group, o, *address, request(*address, *path, *body), begun, 0)
	var beside []*worker
	if *besideAddress != "" {
		lead := time.Duration(float64(time.Second) / o.rate / 2)
		beside = start(&group, o, *besideAddress, request(*besideAddress, *besidePath, *besideBody), begun, lead)
	}
	if o.window > 0 {
		group.Add(1)
		go func() {
			defer group.Done()
			marks(o.window)
		}()
	}
	group.Wait()
	out := report(all, time.Since(begun), *samples)
	if beside != nil {
		out.Beside = report(beside, time.Since(begun), *samples)
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err == nil {
		out.CPU = float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
