// Asks the JSON API for the code and shows it with its link at once, and copies either.
// Without script the browser posts the form itself, and the link can be copied by hand.
const said = document.getElementById("said");
const share = document.getElementById("share");
const form = document.getElementById("code-form");

share.addEventListener("click", async (event) => {
  const name = event.target.dataset.copy;
  if (!name) return;
  try {
    await navigator.clipboard.writeText(document.getElementById(name).textContent);
    said.textContent = name === "link" ? "Link copied." : "Code copied.";
  } catch {
    said.textContent = "The browser did not allow it; copy it by hand.";
  }
});

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const answer = await fetch(form.dataset.api, {
      method: "POST",
      headers: { "X-CSRFToken": form.elements.csrf_token.value },
    });
    const body = await answer.json();
    if (!answer.ok) {
      said.textContent = body.error;
      return;
    }
    const link = document.getElementById("link");
    document.getElementById("code").textContent = body.code;
    link.href = link.textContent = form.dataset.links + body.code;
    share.hidden = false;
    form.hidden = true;
    said.textContent = "Here is your code and your link.";
    share.querySelector("button").focus();
  } catch {
    said.textContent = "The server did not answer; try again.";
  }
});
