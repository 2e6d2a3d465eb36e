package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is one cell of the table of requests.
type load struct {
	Name    string  `json:"name"`
	Clients int     `json:"clients"`
	Count   int     `json:"count"`
	Rate    float64 `json:"per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	// CPU is processor time per request in milliseconds, by kind of process.
	CPU     map[string]float64 `json:"cpu_ms"`
	Against string             `json:"against,omitempty"` // the request it is compared with
	Ratio   float64            `json:"ratio,omitempty"`   // of rates: this one's over the other's
}

// request makes the n-th request of a load.
type request func(n int) (path string, body map[string]any)

// run sends requests from clients for a time, or until most have been sent.
func (s *server) run(name string, clients int, duration time.Duration, most int, make request) (load, error) {
	// One request first, so that no client measures the first use of a thing.
	if path, body := make(-1); path != "" {
		if _, err := s.write(path, body); err != nil {
			return load{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	before := s.usage()
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var next atomic.Int64
	var wg sync.WaitGroup
	started := time.Now()
	for range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for time.Since(started) < duration {
				n := int(next.Add(1)) - 1
				if most > 0 && n >= most {
					return
				}
				path, body := make(n)
				b, _ := json.Marshal(body)
				t := time.Now()
				err := s.send(path, b)
				d := time.Since(t)
				mu.Lock()
				if err != nil {
					failed = fmt.Errorf("%s: %w", name, err)
				}
				took = append(took, d)
				stop := failed != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		}()
	}
	wg.Wait()
	elapsed := time.Since(started)
	if failed != nil {
		return load{}, failed
	}
	after := s.usage()
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	l := load{Name: name, Clients: clients, Count: len(took), Rate: float64(len(took)) / elapsed.Seconds(),
		P50: ms(took[len(took)/2]), P99: ms(took[len(took)*99/100]), CPU: map[string]float64{}}
	for kind, cpu := range after.cpu {
		l.CPU[kind] = max(0, 1000*(cpu-before.cpu[kind])/float64(len(took)))
	}
	return l, nil
}

// send is write without decoding the answer.
func (s *server) send(path string, body []byte) error {
	r, err := http.NewRequest("PUT", s.addr+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-Vault-Token", s.token)
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return err
}
