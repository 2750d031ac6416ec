// Asks the JSON API for the code, then loads the page that shows it with its link.
// Without script the browser posts the form itself.
const form = document.getElementById("code-form");
const output = document.getElementById("code");
const button = form.querySelector("button");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  try {
    const answer = await fetch(form.dataset.api, {
      method: "POST",
      headers: { "X-CSRFToken": form.elements.csrf_token.value },
    });
    const body = await answer.json();
    output.textContent = answer.ok ? body.code : body.error;
    if (answer.ok) location.reload();
  } catch {
    output.textContent = "The server did not answer; try again.";
  } finally {
    button.disabled = false;
  }
});
