// Command testserver is what the tests' httpGet and tcpSocket handlers talk to: one
// static binary, which is all that its container's image may hold. It answers
// over HTTP and HTTPS, and writes each request down before it answers it.
//
//	/status/500       answers with that status
//	/hang             never answers
//	/drop             closes the connection without an answer
//	/redirect?to=URL  redirects
//	/exit?code=3      ends the server without an answer
//	anything else     answers 200
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"strconv"
	"sync"
	"syscall"
)

// Hit is one request, a line of JSON in the log.
type Hit struct {
	Scheme, Host, URI string
	Header            http.Header
}

func main() {
	plain := flag.String("http", "", "address to serve HTTP on, such as :8080")
	secure := flag.String("https", "", "address to serve HTTPS on")
	hits := flag.String("log", "", "file to write the requests to")
	ready := flag.String("ready", "", "file to make when it listens")
	flag.Parse()
	if err := run(*plain, *secure, *hits, *ready); err != nil {
		log.Fatal(err)
	}
}

func run(plain, secure, hits, ready string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Handler: &recorder{file: hits}}
	if secure != "" { // before anything is served: the configuration is read then
		var err error
		if server.TLSConfig, err = selfSigned(); err != nil {
			return err
		}
	}
	failed := make(chan error, 2)
	if plain != "" {
		listener, err := net.Listen("tcp", plain)
		if err != nil {
			return err
		}
		go func() { failed <- server.Serve(listener) }()
	}
	if secure != "" {
		listener, err := net.Listen("tcp", secure)
		if err != nil {
			return err
		}
		go func() { failed <- server.ServeTLS(listener, "", "") }()
	}
	if ready != "" {
		if err := os.WriteFile(ready, nil, 0o644); err != nil {
			return err
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// recorder answers requests, and notes them in file.
type recorder struct {
	file string
	mu   sync.Mutex
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if err := r.note(request); err != nil {
		log.Print(err)
	}
	dir, name := path.Split(request.URL.Path)
	switch {
	case dir == "/status/":
		code, _ := strconv.Atoi(name)
		w.WriteHeader(code)
	case name == "hang":
		<-request.Context().Done()
	case name == "drop":
		panic(http.ErrAbortHandler)
	case name == "redirect":
		http.Redirect(w, request, request.URL.Query().Get("to"), http.StatusFound)
	case name == "exit":
		code, _ := strconv.Atoi(request.URL.Query().Get("code"))
		os.Exit(code)
	default:
		fmt.Fprintln(w, "served")
	}
}

func (r *recorder) note(request *http.Request) (err error) {
	if r.file == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	hit := Hit{Scheme: "http", Host: request.Host, URI: request.RequestURI, Header: request.Header}
	if request.TLS != nil {
		hit.Scheme = "https"
	}
	file, err := os.OpenFile(r.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return json.NewEncoder(file).Encode(hit)
}

// selfSigned is a certificate that no client trusts.
func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}, nil
}
