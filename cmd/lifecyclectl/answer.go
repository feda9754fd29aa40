package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// mostFields is how many fields an answer may have, with those of its messages. A container
// with 16 runs has about 325. An answer of 4 MiB, the most that ttrpc carries, may have
// 2 million empty messages, which take 300 MB once they are decoded.
const mostFields = 100_000

// askStatus asks a shim for its containers, or for one if id is not empty. An answer is
// checked before it is decoded: not every program that is a shim has to be ours.
func askStatus(ctx context.Context, client *ttrpc.Client, id string) (*lifecyclev1.StatusResponse, error) {
	raw := &emptypb.Empty{} // takes every field, without decoding it
	if err := client.Call(ctx, "lifecycle.v1.Lifecycle", "Status", &lifecyclev1.StatusRequest{Id: id}, raw); err != nil {
		return nil, err
	}
	response := &lifecyclev1.StatusResponse{}
	fields := raw.ProtoReflect().GetUnknown()
	if _, err := countFields(fields, response.ProtoReflect().Descriptor(), mostFields); err != nil {
		return nil, fmt.Errorf("its answer is not valid: %w", err)
	}
	if err := proto.Unmarshal(fields, response); err != nil {
		return nil, fmt.Errorf("its answer is not valid: %w", err)
	}
	return response, sane(response)
}

var errManyFields = errors.New("it has too many fields")

// countFields returns how many fields an encoded message has, with those of the messages in
// it. It fails on more than most.
func countFields(encoded []byte, message protoreflect.MessageDescriptor, most int) (int, error) {
	count := 0
	for len(encoded) > 0 {
		number, kind, n := protowire.ConsumeField(encoded)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		if count++; count > most {
			return 0, errManyFields
		}
		if field := message.Fields().ByNumber(number); field != nil && field.Message() != nil && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(encoded)
			value, _ := protowire.ConsumeBytes(encoded[tag:])
			inside, err := countFields(value, field.Message(), most-count)
			if err != nil {
				return 0, err
			}
			count += inside
		}
		encoded = encoded[n:]
	}
	return count, nil
}

// sane returns an error for an answer that cannot be printed, such as one with an invalid
// time: it would prevent the answers of all shims from being printed.
func sane(response *lifecyclev1.StatusResponse) error {
	if _, err := protojson.Marshal(response); err != nil {
		return fmt.Errorf("its answer is not valid: %w", err)
	}
	return nil
}
