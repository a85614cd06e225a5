// Goroutines, channels, timers, signals, children and HTTP over sockets of the Go runtime:
// routines DIRECTORY
//
// Everything checks itself; the program ends with an error as soon as something is not as it was.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	requests int64
	primes   int64
	ticks    int64
	signals  int64
)

// sieve finds primes with one goroutine a prime, again and again.
func sieve(stop <-chan struct{}) {
	for round := 0; ; round++ {
		select {
		case <-stop:
			return
		default:
		}
		ctx, cancel := context.WithCancel(context.Background())
		numbers := make(chan int)
		go func(out chan<- int) {
			for i := 2; ; i++ {
				select {
				case out <- i:
				case <-ctx.Done():
					return
				}
			}
		}(numbers)
		last := 0
		for i := 0; i < 150; i++ {
			last = <-numbers
			next := make(chan int)
			go func(in <-chan int, out chan<- int, prime int) {
				for {
					select {
					case i := <-in:
						if i%prime != 0 {
							select {
							case out <- i:
							case <-ctx.Done():
								return
							}
						}
					case <-ctx.Done():
						return
					}
				}
			}(numbers, next, last)
			numbers = next
		}
		cancel()
		if last != 863 {
			log.Fatalf("the 150th prime is %d", last)
		}
		atomic.AddInt64(&primes, 1)
	}
}

// spin never calls anything: only the runtime's signals can make it give way.
func spin(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		sum := uint64(0)
		for i := uint64(0); i < 20_000_000; i++ {
			sum += i * i
		}
		if sum != 10335320052494567296 {
			log.Fatalf("the sum is %d", sum)
		}
	}
}

func timers(stop <-chan struct{}) {
	ticker := time.NewTicker(3 * time.Millisecond)
	defer ticker.Stop()
	for {
		began := time.Now()
		select {
		case <-stop:
			return
		case <-ticker.C:
			atomic.AddInt64(&ticks, 1)
		case <-time.After(20 * time.Second):
			log.Fatalf("no tick within 20 s")
		}
		time.Sleep(2 * time.Millisecond)
		if passed := time.Since(began); passed < 2*time.Millisecond {
			log.Fatalf("a sleep of 2 ms took %v", passed)
		}
	}
}

// ownSignals sends each signal when the one before has arrived.
func ownSignals(stop <-chan struct{}) {
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGUSR1, syscall.SIGUSR2)
	for n := 0; ; n++ {
		wanted := []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2}[n%2]
		if err := syscall.Kill(os.Getpid(), wanted); err != nil {
			log.Fatal(err)
		}
		select {
		case got := <-arrived:
			if got != wanted {
				log.Fatalf("%v instead of %v", got, wanted)
			}
		case <-time.After(60 * time.Second):
			log.Fatalf("%v never arrived", wanted)
		}
		atomic.AddInt64(&signals, 1)
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func children(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		text := fmt.Sprintf("number %d", n)
		child := exec.Command("/bin/cat")
		child.Stdin = strings.NewReader(text)
		said, err := child.Output()
		if err != nil || string(said) != text {
			log.Fatalf("a child said %q, %v", said, err)
		}
	}
}

// garbage keeps the collector busy with a tree that must stay as it is.
type node struct {
	left, right *node
	value       int
}

func tree(depth, value int) *node {
	if depth == 0 {
		return &node{value: value}
	}
	return &node{tree(depth-1, 2*value), tree(depth-1, 2*value+1), value}
}

func (n *node) sum() int {
	if n == nil {
		return 0
	}
	return n.value + n.left.sum() + n.right.sum()
}

func garbage(stop <-chan struct{}) {
	kept := tree(14, 1)
	wanted := kept.sum()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if tree(12, 1).sum() == 0 || kept.sum() != wanted {
			log.Fatal("a tree has changed")
		}
	}
}

type answer struct {
	Number int
	Digest string
}

func digest(n int) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprint(n))))
}

func serve(listener net.Listener) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/digest", func(w http.ResponseWriter, r *http.Request) {
		var asked answer
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		asked.Digest = digest(asked.Number)
		json.NewEncoder(w).Encode(asked)
	})
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) {
		for n := 0; n < 50; n++ {
			fmt.Fprintf(w, "line %d\n", n)
			w.(http.Flusher).Flush()
			time.Sleep(2 * time.Millisecond)
		}
	})
	server := &http.Server{Handler: mux}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	return server
}

func client(network, address string, keep bool, number int, stop <-chan struct{}) {
	transport := &http.Transport{
		DisableKeepAlives: !keep,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, address)
		},
	}
	web := &http.Client{Transport: transport, Timeout: 60 * time.Second}
	for n := number; ; n += 16 {
		select {
		case <-stop:
			transport.CloseIdleConnections()
			return
		default:
		}
		if n%5 == 0 {
			get(web)
			continue
		}
		body, _ := json.Marshal(answer{Number: n})
		response, err := web.Post("http://server/digest", "application/json", strings.NewReader(string(body)))
		if err != nil {
			log.Fatalf("request %d: %v", n, err)
		}
		var got answer
		err = json.NewDecoder(response.Body).Decode(&got)
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil || got.Number != n || got.Digest != digest(n) {
			log.Fatalf("request %d was answered with %v, %v", n, got, err)
		}
		atomic.AddInt64(&requests, 1)
	}
}

func get(web *http.Client) {
	response, err := web.Get("http://server/long")
	if err != nil {
		log.Fatalf("the long answer: %v", err)
	}
	text, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || strings.Count(string(text), "\n") != 50 {
		log.Fatalf("the long answer has %d bytes, %v", len(text), err)
	}
	atomic.AddInt64(&requests, 1)
}

func main() {
	directory := os.Args[1]
	stop := make(chan struct{})
	var all sync.WaitGroup
	run := func(body func(<-chan struct{})) {
		all.Add(1)
		go func() {
			defer all.Done()
			body(stop)
		}()
	}
	var servers []*http.Server
	for network, address := range map[string]string{
		"tcp": "127.0.0.1:0", "unix": filepath.Join(directory, "socket"),
	} {
		listener, err := net.Listen(network, address)
		if err != nil {
			log.Fatal(err)
		}
		servers = append(servers, serve(listener))
		network, address := network, listener.Addr().String()
		for n := 0; n < 4; n++ {
			number := n
			run(func(stop <-chan struct{}) { client(network, address, number%2 == 0, number, stop) })
		}
	}
	for _, body := range []func(<-chan struct{}){sieve, spin, timers, ownSignals, children, garbage} {
		run(body)
	}
	for {
		if _, err := os.Stat(filepath.Join(directory, "stop")); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
		if atomic.LoadInt64(&requests) > 20 && atomic.LoadInt64(&primes) > 2 {
			os.WriteFile(filepath.Join(directory, "ready"), nil, 0o600)
		}
	}
	close(stop)
	all.Wait()
	for _, server := range servers {
		if err := server.Shutdown(context.Background()); err != nil {
			log.Fatal(err)
		}
	}
	text := fmt.Sprintf("%d requests, %d sieves, %d ticks, %d signals\n", requests, primes, ticks, signals)
	if err := os.WriteFile(filepath.Join(directory, "done"), []byte(text), 0o600); err != nil {
		log.Fatal(err)
	}
}
