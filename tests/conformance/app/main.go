// The application behind the proxy: HTTP/1 and HTTP/2 by prior knowledge, on a loopback port of the caller's choice.
//
// `/` says hello, a request with a body gets the body back, `/large` is 8 MiB. With `-last N` every Nth answer is the last
// on its connection: `connection: close`, GOAWAY. `-certificates DIR` writes what a TLS listener needs instead: ca.pem,
// app.pem and app.key, good for a day.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

const largeBytes = 8 << 20

func main() {
	port := flag.Int("port", 0, "where to listen, on 127.0.0.1")
	certificates := flag.String("certificates", "", "write certificates into this folder, and end")
	last := flag.Uint64("last", 0, "how many answers until a connection is given up; 0: it never is")
	flag.Parse()
	if *certificates != "" {
		if err := writeCertificates(*certificates); err != nil {
			log.Fatal(err)
		}
		return
	}
	mux := http.NewServeMux()
	var answers atomic.Uint64
	large := make([]byte, largeBytes)
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(largeBytes))
		w.Write(large)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if *last != 0 && answers.Add(1)%*last == 0 {
			w.Header().Set("Connection", "close")
		}
		if r.ContentLength == 0 {
			io.WriteString(w, "hello\n")
			return
		}
		// Both ways at once: what has come goes back before the rest has come.
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{Addr: "127.0.0.1:" + strconv.Itoa(*port), Handler: mux, Protocols: &protocols}
	log.Fatal(server.ListenAndServe())
}

func writeCertificates(folder string) error {
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
			BasicConstraintsValid: true,
		}
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority := template(1, "authority of a conformance test")
	authority.IsCA, authority.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	// What has been signed knows its authority by the parsed form's key identifier.
	if authority, err = x509.ParseCertificate(authorityDER); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := template(2, "app.local")
	leaf.DNSNames, leaf.IPAddresses = []string{"app.local", "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name, kind string
		der        []byte
	}{{"ca.pem", "CERTIFICATE", authorityDER}, {"app.pem", "CERTIFICATE", leafDER}, {"app.key", "PRIVATE KEY", keyDER}} {
		text := pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der})
		if err := os.WriteFile(filepath.Join(folder, file.name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
