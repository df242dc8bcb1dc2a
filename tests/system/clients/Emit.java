import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Java's HttpClient with its defaults: it offers HTTP/2 by an upgrade to h2c. */
public class Emit {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String document = "{\"cnpj\":\"12345678000195\",\"modelo\":\"55\",\"serie\":\"1\",\"numero\":\"1\",\"natureza\":\"Devolu\u00e7\u00e3o\"}";
        show(client.send(
            HttpRequest.newBuilder(URI.create(arguments[0] + "/api/nfe/envio"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(document)).build(),
            HttpResponse.BodyHandlers.ofString()));
        show(client.send(
            HttpRequest.newBuilder(URI.create(
                arguments[0] + "/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000")).build(),
            HttpResponse.BodyHandlers.ofString()));
    }

    private static void show(HttpResponse<String> answer) {
        System.out.println(answer.statusCode());
        System.out.println(answer.body());
    }
}
