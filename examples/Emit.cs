// Issues one NF-e through the sidecar, and does the right thing about every outcome: dotnet run BASE_URL NUMBER
// C# 12, .NET 8 or newer. The fields are those that the fake Invoisys reads; take the real ones from Invoisys's
// documentation. Not compiled by this project's tests.
using System.Globalization;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Security.Cryptography;
using System.Text.Json;

return await new Emit(args[0]).Run(int.Parse(args[1]));

/// <summary>Outcome: not-sent, unknown or answered; Verdict: SEFAZ's, or 0; Wait: until another attempt.</summary>
record Answer(string Outcome, int Status, int Verdict, TimeSpan Wait);

class Emit(string baseUrl)
{
    static readonly TimeSpan Timeout = TimeSpan.FromSeconds(240); // longer than the sidecar's own, or its answer is lost
    static readonly TimeSpan Pause = TimeSpan.FromSeconds(5);     // between two queries
    const int Attempts = 2;                                       // to send, before contingency
    const int Queries = 6; // shortened: an ERP asks for at least 5 minutes before it may send again

    // Of the batch alone, there already, not there: ask for the document.
    static readonly int[] Undecided = [103, 104, 105, 106, 204, 217];

    // Where the listener wants one.
    static readonly string? CallerToken = Environment.GetEnvironmentVariable("CALLER_TOKEN");

    readonly HttpClient client = new(new SocketsHttpHandler { AllowAutoRedirect = false, UseProxy = false })
    {
        Timeout = Timeout,
    };

    static string AccessKey(string uf, string month, string cnpj, string model, int series, int number, string code)
    {
        var body = $"{uf}{month}{cnpj}{model}{series:000}{number:000000000}1{code}"; // 1: normal emission
        // Letters of a CNPJ count by their place in ASCII, as digits do.
        var total = body.Reverse().Select((sign, place) => (sign - '0') * (2 + place % 8)).Sum();
        return $"{body}{(11 - total % 11) % 11 % 10}";
    }

    /// <summary>Eight digits that SEFAZ takes: not all the same, not counting up, not the number (rejection 897).</summary>
    static string RandomCode(int number)
    {
        while (true)
        {
            var drawn = RandomNumberGenerator.GetInt32(100_000_000);
            var code = $"{drawn:00000000}";
            if (code.Distinct().Count() > 1 && !"01234567890123456".Contains(code) && drawn != number) return code;
        }
    }

    async Task<Answer> Send(HttpMethod method, string path, object? document = null)
    {
        using var request = new HttpRequestMessage(method, baseUrl + path);
        if (document != null) request.Content = JsonContent.Create(document);
        if (CallerToken != null) request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", CallerToken);
        try
        {
            // The whole body is read before this returns: one that breaks off is an exception too.
            using var response = await client.SendAsync(request);
            var status = (int)response.StatusCode;
            var verdict = VerdictOf(await response.Content.ReadAsStringAsync());
            var outcome = response.Headers.TryGetValues("X-Invoisys-Outcome", out var said)
                ? said.First()
                : OutcomeOf(status, verdict);
            return new Answer(outcome, status, verdict, response.Headers.RetryAfter?.Delta ?? Pause); // Retry-After
        }
        catch (HttpRequestException error) when (error.HttpRequestError
            is HttpRequestError.ConnectionError or HttpRequestError.NameResolutionError)
        {
            return new Answer("not-sent", 0, 0, Pause); // the sidecar is not there: nothing was sent, to anybody
        }
        catch (Exception error) when (error is HttpRequestException or TaskCanceledException or IOException)
        {
            return new Answer("unknown", 0, 0, Pause); // no answer, or not all of it
        }
    }

    static int VerdictOf(string text)
    {
        try
        {
            using var json = JsonDocument.Parse(text);
            return json.RootElement.ValueKind == JsonValueKind.Object
                && json.RootElement.TryGetProperty("dadosDoDocumento", out var data)
                && data.ValueKind == JsonValueKind.Object
                && data.TryGetProperty("codigoStatusSEFAZ", out var code)
                && int.TryParse(code.ToString(), out var number) ? number : 0;
        }
        catch (JsonException)
        {
            return 0;
        }
    }

    static string OutcomeOf(int status, int verdict)
    {
        var refused = status is >= 400 and < 500 && status != 429;
        return !Undecided.Contains(verdict) && (verdict != 0 || refused) ? "answered" : "unknown";
    }

    async Task<string> Issue(object document, string key)
    {
        for (var attempt = 1; attempt <= Attempts; attempt++)
        {
            var answer = await Send(HttpMethod.Post, "/api/nfe/envio", document);
            if (answer.Outcome == "unknown") return await Settle(key);
            if (answer.Verdict != 0) return Told(answer.Verdict, key);
            if (answer.Status is >= 400 and < 500) return $"refused {answer.Status}"; // the request has to change
            if (attempt < Attempts) await Task.Delay(answer.Wait);
        }
        return "contingency"; // Invoisys knows nothing of the number: it is still free
    }

    /// <summary>Never sends again what may have been sent: asks for it.</summary>
    async Task<string> Settle(string key)
    {
        for (var query = 1; query <= Queries; query++)
        {
            var answer = await Send(HttpMethod.Get, $"/api/nfe/getbychaveSTD/{key}");
            if (answer.Outcome == "answered" && answer.Verdict != 0) return Told(answer.Verdict, key);
            if (query < Queries) await Task.Delay(Pause);
        }
        return $"pending {key}"; // go on asking later; the next sale takes the next number
    }

    static string Told(int verdict, string key) => verdict is 100 or 150 ? $"issued {key}" : $"rejected {verdict}";

    public async Task<int> Run(int number)
    {
        var code = RandomCode(number);
        var now = DateTimeOffset.Now.ToString("yyyy-MM-ddTHH:mm:sszzz", CultureInfo.InvariantCulture); // local time
        var document = new
        {
            cnpj = "12345678000195",
            modelo = "55",
            serie = 1,
            numero = number,
            codigoAleatorioNF = code,
            dataEmissao = now,
        };
        var key = AccessKey("35", now[2..4] + now[5..7], document.cnpj, document.modelo, document.serie, number, code);
        // Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
        Console.WriteLine(await Issue(document, key));
        return 0;
    }
}
