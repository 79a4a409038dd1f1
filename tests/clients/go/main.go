// Reads the specification of conversation.py from standard input, prints what the client heard.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

type specification struct {
	BaseURL  string `json:"base_url"`
	Model    string `json:"model"`
	Question string `json:"question"`
	Tool     struct {
		Name        string         `json:"name"`
		Description string         `json:"description"`
		Parameters  map[string]any `json:"parameters"`
	} `json:"tool"`
	Texts     []string         `json:"texts"`
	MaxTokens map[string]int64 `json:"max_tokens"`
}

type heard struct {
	Chat   string    `json:"chat"`
	Usage  [2]int64  `json:"usage"`
	Tool   [2]string `json:"tool"`
	Texts  []string  `json:"texts"`
	Echoes []string  `json:"echoes"`
}

func fail(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// streamChat gives the text, the usage and the call of a streamed chat.
func streamChat(client openai.Client, params openai.ChatCompletionNewParams,
	options ...option.RequestOption) (text string, usage [2]int64, tool [2]string) {
	stream := client.Chat.Completions.NewStreaming(context.Background(), params, options...)
	defer stream.Close()
	for stream.Next() {
		chunk := stream.Current()
		if chunk.Usage.TotalTokens > 0 {
			usage = [2]int64{chunk.Usage.PromptTokens, chunk.Usage.CompletionTokens}
		}
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
			for _, call := range choice.Delta.ToolCalls {
				tool[0] += call.Function.Name
				tool[1] += call.Function.Arguments
			}
		}
	}
	fail(stream.Err())
	return text, usage, tool
}

func streamEcho(client openai.Client, spec specification, text string) (said string) {
	stream := client.Completions.NewStreaming(context.Background(), openai.CompletionNewParams{
		Model:       openai.CompletionNewParamsModel(spec.Model),
		Prompt:      openai.CompletionNewParamsPromptUnion{OfString: openai.String(text)},
		Echo:        openai.Bool(true),
		MaxTokens:   openai.Int(spec.MaxTokens["echo"]),
		Temperature: openai.Float(0),
	})
	defer stream.Close()
	for stream.Next() {
		said += stream.Current().Choices[0].Text
	}
	fail(stream.Err())
	return said
}

func main() {
	var spec specification
	fail(json.NewDecoder(os.Stdin).Decode(&spec))
	client := openai.NewClient(option.WithBaseURL(spec.BaseURL), option.WithAPIKey("none"),
		option.WithMaxRetries(0))
	question := func(kind string) openai.ChatCompletionNewParams {
		return openai.ChatCompletionNewParams{
			Model: spec.Model,
			Messages: []openai.ChatCompletionMessageParamUnion{
				openai.UserMessage(spec.Question)},
			MaxTokens:   openai.Int(spec.MaxTokens[kind]),
			Temperature: openai.Float(0),
			StreamOptions: openai.ChatCompletionStreamOptionsParam{
				IncludeUsage: openai.Bool(true)},
		}
	}
	var told heard
	told.Chat, told.Usage, _ = streamChat(client, question("chat"))
	withTool := question("tool")
	withTool.Tools = []openai.ChatCompletionToolUnionParam{
		openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
			Name:        spec.Tool.Name,
			Description: openai.String(spec.Tool.Description),
			Parameters:  spec.Tool.Parameters,
		})}
	withTool.ToolChoice = openai.ToolChoiceOptionFunctionToolChoice(
		openai.ChatCompletionNamedToolChoiceFunctionParam{Name: spec.Tool.Name})
	_, _, told.Tool = streamChat(client, withTool)
	for _, text := range spec.Texts {
		forced := option.WithJSONSet("structured_outputs", map[string]any{"choice": []string{text}})
		said, _, _ := streamChat(client, question("text"), forced)
		told.Texts = append(told.Texts, said)
		told.Echoes = append(told.Echoes, streamEcho(client, spec, text))
	}
	fail(json.NewEncoder(os.Stdout).Encode(told))
}
