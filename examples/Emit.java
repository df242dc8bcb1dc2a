import java.io.IOException;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpConnectTimeoutException;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.time.format.DateTimeFormatter;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Issues one NF-e through the sidecar, and does the right thing about every outcome: java Emit.java BASE_URL NUMBER.
 *
 * <p>The fields are those that the fake Invoisys reads; take the real ones from Invoisys's documentation.
 */
public class Emit {
    /** Seconds; longer than the sidecar's own, or its answer is lost. */
    static final double TIMEOUT = Double.parseDouble(System.getenv().getOrDefault("TIMEOUT", "240"));
    /** Seconds between two queries. */
    static final double PAUSE = Double.parseDouble(System.getenv().getOrDefault("PAUSE", "5"));
    /** Where the listener wants one. */
    static final String CALLER_TOKEN = System.getenv("CALLER_TOKEN");
    /** To send, before contingency. */
    static final int ATTEMPTS = 2;
    /** Shortened: an ERP asks for at least 5 minutes before it may send again. */
    static final int QUERIES = 6;
    /** Of the batch alone, there already, not there: ask for the document. */
    static final Set<Integer> UNDECIDED = Set.of(103, 104, 105, 106, 204, 217);

    static final Pattern VERDICT = Pattern.compile("\"codigoStatusSEFAZ\"\\s*:\\s*\"?([0-9]{1,9})");

    /** Outcome: not-sent, unknown or answered; verdict: SEFAZ's, or 0; pause: seconds before another attempt. */
    record Answer(String outcome, int status, int verdict, double pause) {}

    final String base;
    final HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    Emit(String base) {
        this.base = base;
    }

    static String accessKey(String uf, String month, String cnpj, String model, int series, int number, String code) {
        String body = uf + month + cnpj + model + String.format("%03d%09d", series, number) + "1" + code; // 1: normal
        int total = 0;
        for (int place = 0; place < body.length(); place++) {
            // Letters of a CNPJ count by their place in ASCII, as digits do.
            total += (body.charAt(body.length() - 1 - place) - '0') * (2 + place % 8);
        }
        return body + (11 - total % 11) % 11 % 10;
    }

    /** Eight digits that SEFAZ takes: not all the same, not counting up, not the number itself (rejection 897). */
    static String randomCode(int number) {
        SecureRandom chance = new SecureRandom();
        while (true) {
            int drawn = chance.nextInt(100_000_000);
            String code = String.format("%08d", drawn);
            if (code.chars().distinct().count() > 1 && !"01234567890123456".contains(code) && drawn != number) {
                return code;
            }
        }
    }

    Answer send(String method, String path, String document) throws InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + path))
                .method(method, document == null ? BodyPublishers.noBody() : BodyPublishers.ofString(document))
                .header("Content-Type", "application/json")
                .timeout(Duration.ofMillis((long) (TIMEOUT * 1000)));
        if (CALLER_TOKEN != null) {
            request.header("Authorization", "Bearer " + CALLER_TOKEN);
        }
        HttpResponse<String> response;
        try {
            response = client.send(request.build(), BodyHandlers.ofString());
        } catch (ConnectException | HttpConnectTimeoutException error) {
            return new Answer("not-sent", 0, 0, PAUSE); // the sidecar is not there: nothing was sent, to anybody
        } catch (IOException error) {
            return new Answer("unknown", 0, 0, PAUSE); // no answer, or not all of it
        }
        int status = response.statusCode();
        Matcher found = VERDICT.matcher(response.body());
        int verdict = found.find() ? Integer.parseInt(found.group(1)) : 0;
        String said = response.headers().firstValue("X-Invoisys-Outcome").orElse(outcome(status, verdict));
        String wait = response.headers().firstValue("Retry-After").orElse("");
        return new Answer(said, status, verdict, wait.matches("[0-9]{1,9}") ? Integer.parseInt(wait) : PAUSE);
    }

    static String outcome(int status, int verdict) {
        boolean refused = status >= 400 && status < 500 && status != 429;
        return !UNDECIDED.contains(verdict) && (verdict != 0 || refused) ? "answered" : "unknown";
    }

    String issue(String document, String key) throws InterruptedException {
        for (int attempt = 1; attempt <= ATTEMPTS; attempt++) {
            Answer answer = send("POST", "/api/nfe/envio", document);
            if (answer.outcome().equals("unknown")) {
                return settle(key);
            }
            if (answer.verdict() != 0) {
                return told(answer.verdict(), key);
            }
            if (answer.status() >= 400 && answer.status() < 500) {
                return "refused " + answer.status(); // the request itself has to change
            }
            if (attempt < ATTEMPTS) {
                Thread.sleep((long) (answer.pause() * 1000));
            }
        }
        return "contingency"; // Invoisys knows nothing of the number: it is still free
    }

    /** Never sends again what may have been sent: asks for it. */
    String settle(String key) throws InterruptedException {
        for (int query = 1; query <= QUERIES; query++) {
            Answer answer = send("GET", "/api/nfe/getbychaveSTD/" + key, null);
            if (answer.outcome().equals("answered") && answer.verdict() != 0) {
                return told(answer.verdict(), key);
            }
            if (query < QUERIES) {
                Thread.sleep((long) (PAUSE * 1000));
            }
        }
        return "pending " + key; // go on asking later; the next sale takes the next number
    }

    static String told(int verdict, String key) {
        return verdict == 100 || verdict == 150 ? "issued " + key : "rejected " + verdict;
    }

    public static void main(String[] arguments) throws InterruptedException {
        int number = Integer.parseInt(arguments[1]);
        String code = randomCode(number);
        // Local time, with its offset.
        String now = OffsetDateTime.now().format(DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ssxxx"));
        String document = """
                {"cnpj":"12345678000195","modelo":"55","serie":1,"numero":%d,"codigoAleatorioNF":"%s","dataEmissao":"%s"}"""
                .formatted(number, code, now);
        String month = now.substring(2, 4) + now.substring(5, 7);
        String key = accessKey("35", month, "12345678000195", "55", 1, number, code);
        // Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
        System.out.println(new Emit(arguments[0]).issue(document, key));
    }
}
