// Go's httputil.ReverseProxy with the token fetched once for all who wait, and one replay after a 401.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	replayCap      = 4 << 20
	loginPatience  = 15 * time.Second
	copyBufferSize = 32 << 10
)

// login is one attempt that any number of requests wait for.
type login struct {
	done  chan struct{}
	token string
	err   error
}

// source gives the token, by at most one login at a time.
type source struct {
	url       string
	transport http.RoundTripper

	mutex   sync.Mutex
	token   string
	expires time.Time
	flight  *login
}

// current returns the token, or the one that the login under way brings; never the rejected one.
func (s *source) current(ctx context.Context, rejected string) (string, error) {
	s.mutex.Lock()
	if s.token != "" && s.token != rejected && time.Now().Before(s.expires) {
		defer s.mutex.Unlock()
		return s.token, nil
	}
	if s.flight == nil {
		s.flight = &login{done: make(chan struct{})}
		go s.logIn(s.flight)
	}
	flight := s.flight
	s.mutex.Unlock()
	select {
	case <-flight.done:
		return flight.token, flight.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *source) logIn(flight *login) {
	token, lifetime, err := s.post()
	flight.token, flight.err = token, err
	s.mutex.Lock()
	s.token, s.expires, s.flight = token, time.Now().Add(lifetime*8/10), nil
	s.mutex.Unlock()
	close(flight.done)
}

func (s *source) post() (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loginPatience)
	defer cancel()
	body := strings.NewReader(`{"username":"bench","password":"bench"}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, body)
	if err != nil {
		return "", 0, err
	}
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	var grant struct {
		Token    string `json:"access_token"`
		Lifetime int64  `json:"expires_in"`
	}
	if response.StatusCode != http.StatusOK {
		return "", 0, errors.New("the login was refused: " + response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&grant); err != nil {
		return "", 0, err
	}
	return grant.Token, time.Duration(grant.Lifetime) * time.Second, nil
}

// injector sends a request with the token, and once more with another after a 401.
type injector struct {
	tokens    *source
	transport http.RoundTripper
}

func (i *injector) RoundTrip(request *http.Request) (*http.Response, error) {
	held, err := hold(request)
	if err != nil {
		return nil, err
	}
	token, err := i.tokens.current(request.Context(), "")
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := i.transport.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized || (held == nil && request.Body != nil) {
		return response, err
	}
	newer, err := i.tokens.current(request.Context(), token)
	if err != nil {
		return response, nil
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	again := request.Clone(request.Context())
	again.Header.Set("Authorization", "Bearer "+newer)
	if held != nil {
		again.Body = io.NopCloser(bytes.NewReader(held))
	}
	return i.transport.RoundTrip(again)
}

// hold reads a body up to the replay cap, and returns it where it ends within; a longer one streams on.
func hold(request *http.Request) ([]byte, error) {
	if request.Body == nil || request.Body == http.NoBody {
		request.Body = nil
		return nil, nil
	}
	if request.ContentLength > replayCap {
		return nil, nil
	}
	var read bytes.Buffer
	if request.ContentLength > 0 {
		read.Grow(int(request.ContentLength) + bytes.MinRead)
	}
	if _, err := read.ReadFrom(io.LimitReader(request.Body, replayCap+1)); err != nil {
		return nil, err
	}
	if read.Len() > replayCap {
		rest := request.Body
		request.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(&read, rest), rest}
		return nil, nil
	}
	request.ContentLength = int64(read.Len())
	request.Body = io.NopCloser(bytes.NewReader(read.Bytes()))
	return read.Bytes(), nil
}

// buffers lends the memory that bodies are copied through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte       { return b.pool.Get().([]byte) }
func (b *buffers) Put(buffer []byte) { b.pool.Put(buffer) } //nolint:staticcheck // a slice header is small

func main() {
	upstream, err := url.Parse(os.Getenv("UPSTREAM"))
	if err != nil {
		log.Fatal(err)
	}
	authorities := x509.NewCertPool()
	if file, err := os.ReadFile(os.Getenv("CA")); err != nil || !authorities.AppendCertsFromPEM(file) {
		log.Fatal("CA: no certificate can be read: ", err)
	}
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: authorities},
		MaxIdleConns:        256,
		MaxIdleConnsPerHost: 256,
		DisableCompression:  true,
	}
	tokens := &source{url: upstream.JoinPath("/api/token").String(), transport: transport}
	proxy := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport:  &injector{tokens: tokens, transport: transport},
		BufferPool: &buffers{sync.Pool{New: func() any { return make([]byte, copyBufferSize) }}},
	}
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN"), proxy))
}
