/* response_mode=fragment: no server sees what follows the #, so the page posts it to its own URL.

   The relay joins the lines and drops these comments, so each statement ends with a semicolon.
   An input named "submit" or "appendChild" hides the form's method of that name. So the script
   collects the inputs before it appends them, and calls the prototype's submit().
   Under no-referrer the POST carries `Origin: null`, so the relay does not check Origin.
   While it posts, the page says so: `main` has the words. A browser that keeps the page for its
   back button would show them again, so that page is loaded anew. */
(function(){
  var p=new URLSearchParams(location.hash.slice(1));
  if(!p.has('code')&&!p.has('error')&&!p.has('response'))return;
  history.replaceState(null,'',location.pathname);
  var m=document.querySelector('main'),w=m.dataset;
  document.title=m.querySelector('h1').textContent=w.title;
  m.querySelector('.lead').textContent=w.body;
  m.querySelectorAll('section').forEach(function(s){s.remove()});
  m.className='wait';
  addEventListener('pageshow',function(e){if(e.persisted)location.reload()});
  var f=document.createElement('form');
  f.method='post';
  f.action=location.pathname;
  var d=document.createDocumentFragment();
  p.forEach(function(v,k){
    var i=document.createElement('input');
    i.type='hidden';
    i.name=k;
    i.value=v;
    d.appendChild(i)
  });
  f.appendChild(d);
  document.body.appendChild(f);
  HTMLFormElement.prototype.submit.call(f)
})()
